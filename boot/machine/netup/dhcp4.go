package netup

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"syscall"
	"time"

	"github.com/insomniacslk/dhcp/dhcpv4"
	"github.com/insomniacslk/dhcp/dhcpv4/nclient4"
	"github.com/insomniacslk/dhcp/dhcpv6/nclient6"
	"golang.org/x/sys/unix"

	"github.com/sealboot/sealboot/boot/config"
	"github.com/sealboot/sealboot/measure/pause"
)

var options4 = dhcpv4.WithRequestedOptions(
	dhcpv4.OptionSubnetMask, dhcpv4.OptionRouter, dhcpv4.OptionDomainNameServer, dhcpv4.OptionInterfaceMTU)

// dhcp4 asks until it has a lease or ctx ends.
func (p *port) dhcp4(ctx context.Context) (lease, error) {
	c, err := nclient4.New(p.link.Attrs().Name, nclient4.WithTimeout(askAgain), nclient4.WithRetry(-1))
	if err != nil {
		return lease{}, fmt.Errorf("open a packet socket: %w; the kernel needs CONFIG_PACKET", err)
	}
	defer c.Close()
	return search(ctx, p.shun, server4,
		func(ctx context.Context, shun *shunned) (*dhcpv4.DHCPv4, error) { return discover4(ctx, c, shun) },
		func(ctx context.Context, offer *dhcpv4.DHCPv4) (lease, error) { return p.accept4(ctx, c, offer) })
}

// search asks until it has a lease or ctx ends. A server that offers what cannot be
// used, or does not stand by its offer, must not end the search: another one may
// be slower and right.
func search[O any](ctx context.Context, shun *shunned, server func(O) string,
	discover func(context.Context, *shunned) (O, error), accept func(context.Context, O) (lease, error)) (lease, error) {
	var bad error
	for {
		offer, err := discover(ctx, shun)
		if ctx.Err() != nil {
			return lease{}, errors.Join(bad, noLease(ctx.Err()))
		}
		if err != nil { // not heard, but not sent
			bad = err
			if pause.For(ctx, time.Second) != nil {
				return lease{}, bad
			}
			continue
		}
		l, err := accept(ctx, offer)
		if err == nil {
			return l, nil
		}
		bad = fmt.Errorf("%s: %w", server(offer), err)
		shun = shun.and(server(offer))
		if pause.For(ctx, time.Second) != nil {
			return lease{}, bad
		}
	}
}

// discover4 returns the first offer of a server that is heard.
func discover4(ctx context.Context, c *nclient4.Client, shun *shunned) (*dhcpv4.DHCPv4, error) {
	m, err := dhcpv4.NewDiscovery(c.InterfaceAddr(), options4, dhcpv4.WithOption(dhcpv4.OptMaxMessageSize(nclient4.MaxMessageSize)))
	if err != nil {
		return nil, err
	}
	return c.SendAndRead(ctx, nclient4.DefaultServers, m, func(m *dhcpv4.DHCPv4) bool {
		return m.MessageType() == dhcpv4.MessageTypeOffer && shun.hears(server4(m))
	})
}

// accept4 asks for what was offered.
func (p *port) accept4(ctx context.Context, c *nclient4.Client, offer *dhcpv4.DHCPv4) (lease, error) {
	ctx, cancel := context.WithTimeout(ctx, 3*askAgain)
	defer cancel()
	got, err := c.RequestFromOffer(ctx, offer, options4)
	if err != nil {
		return lease{}, noLease(err)
	}
	l, err := fromDHCP4(got.ACK)
	if err != nil {
		return lease{}, err
	}
	l.renew = func(ctx context.Context, anyServer bool) (terms, error) { return p.renew4(ctx, got.ACK, anyServer) }
	return l, nil
}

func server4(m *dhcpv4.DHCPv4) string {
	return fmt.Sprintf("%s %v", config.DHCP4, m.ServerIdentifier())
}

// noLease says in few words that a client has heard nothing.
func noLease(err error) error {
	if errors.Is(err, nclient4.ErrNoResponse) || errors.Is(err, nclient6.ErrNoResponse) || errors.Is(err, context.DeadlineExceeded) {
		return errors.New("no server answered")
	}
	return fmt.Errorf("no lease: %w", err)
}

// fromDHCP4 takes from an answer what can be used, and nothing else.
func fromDHCP4(ack *dhcpv4.DHCPv4) (lease, error) {
	addr, ok := netip.AddrFromSlice(ack.YourIPAddr.To4())
	if !ok || !addr.IsGlobalUnicast() {
		return lease{}, fmt.Errorf("the server offers %v, which is no address", ack.YourIPAddr)
	}
	mask := ack.SubnetMask()
	if mask == nil {
		mask = ack.YourIPAddr.DefaultMask()
	}
	bits, size := mask.Size()
	if size != 32 || bits == 0 {
		return lease{}, fmt.Errorf("the server offers the netmask %v, which is none", mask)
	}
	l := lease{addresses: []netip.Prefix{netip.PrefixFrom(addr, bits)}, server: server4(ack), terms: terms4(ack)}
	for _, ip := range ack.Router() {
		if g, ok := netip.AddrFromSlice(ip.To4()); ok && g.IsGlobalUnicast() {
			l.gateways = []netip.Addr{g}
			break
		}
	}
	l.dns = takeDNS(ack.DNS())
	if m, err := dhcpv4.GetUint16(dhcpv4.OptionInterfaceMTU, ack.Options); err == nil && m >= 1280 && m <= 9216 {
		l.mtu = int(m)
	}
	return l, nil
}

// terms4 are the times in an answer. One that names no end has none, as in BOOTP.
func terms4(ack *dhcpv4.DHCPv4) terms {
	return newTerms(ack.IPAddressRenewalTime(0), ack.IPAddressRebindingTime(0), ack.IPAddressLeaseTime(infinite))
}

// renew4 asks for more time: first the server of ack, by its address; later every
// server, since the first one may be gone. Only the first may take the lease back:
// a foreign server that does not know it refuses it at once. What else an answer
// says is not looked at, so a foreign one cannot change the route.
func (p *port) renew4(ctx context.Context, ack *dhcpv4.DHCPv4, anyServer bool) (terms, error) {
	m, err := dhcpv4.NewRenewFromAck(ack, options4, dhcpv4.WithOption(dhcpv4.OptMaxMessageSize(nclient4.MaxMessageSize)))
	if err != nil {
		return terms{}, err
	}
	server := ack.ServerIdentifier()
	to := nclient4.DefaultServers
	open := nclient4.NewRawUDPConn
	if !anyServer {
		to = &net.UDPAddr{IP: server, Port: nclient4.ServerPort}
		open = func(link string, port int) (net.PacketConn, error) {
			return listenOn(ctx, link, &net.UDPAddr{IP: ack.YourIPAddr, Port: port})
		}
	}
	conn, err := open(p.link.Attrs().Name, nclient4.ClientPort)
	if err != nil {
		return terms{}, fmt.Errorf("open a socket: %w", err)
	}
	c, err := nclient4.NewWithConn(conn, p.link.Attrs().HardwareAddr, nclient4.WithTimeout(askAgain), nclient4.WithRetry(-1))
	if err != nil {
		conn.Close()
		return terms{}, err
	}
	defer c.Close()
	got, err := c.SendAndRead(ctx, to, m, func(m *dhcpv4.DHCPv4) bool {
		ours := m.ServerIdentifier().Equal(server)
		switch m.MessageType() {
		case dhcpv4.MessageTypeAck:
			return (ours || anyServer) && m.YourIPAddr.Equal(ack.YourIPAddr)
		case dhcpv4.MessageTypeNak:
			return ours
		}
		return false
	})
	if err != nil {
		return terms{}, noLease(err)
	}
	if got.MessageType() == dhcpv4.MessageTypeNak {
		return terms{}, errTakenBack
	}
	return terms4(got), nil
}

// listenOn opens a UDP socket that hears and sends on one link only.
func listenOn(ctx context.Context, link string, addr *net.UDPAddr) (net.PacketConn, error) {
	conf := net.ListenConfig{Control: func(_, _ string, c syscall.RawConn) error {
		var bound error
		err := c.Control(func(fd uintptr) {
			bound = errors.Join(unix.SetsockoptInt(int(fd), unix.SOL_SOCKET, unix.SO_REUSEADDR, 1), unix.BindToDevice(int(fd), link))
		})
		return errors.Join(err, bound)
	}}
	return conf.ListenPacket(ctx, "udp4", addr.String())
}

func takeDNS(ips []net.IP) []netip.Addr {
	var out []netip.Addr
	for _, ip := range ips {
		a, ok := netip.AddrFromSlice(ip)
		if a = a.Unmap(); ok && !a.IsUnspecified() && !a.IsMulticast() && len(out) < maxDNS {
			out = append(out, a)
		}
	}
	return out
}

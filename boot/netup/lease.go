package netup

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"time"

	"github.com/insomniacslk/dhcp/dhcpv4"
	"github.com/insomniacslk/dhcp/dhcpv4/nclient4"
	"github.com/insomniacslk/dhcp/dhcpv6"
	"github.com/insomniacslk/dhcp/dhcpv6/nclient6"
	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/sealboot/sealboot/measure/atomicfile"
)

const (
	askAgain = 3 * time.Second // between two tries of a DHCP client
	maxDNS   = 3               // a resolver looks at no more
	maxV6    = 4               // addresses taken from one DHCPv6 answer
)

// apply gives the port what is in l.
func (p *port) apply(l lease) error {
	if l.routed {
		return nil
	}
	if l.mtu != 0 && p.conf.MTU == 0 {
		// A wrong MTU from a lease is no reason to stay offline.
		_ = netlink.LinkSetMTU(p.link, l.mtu)
	}
	for _, a := range l.addresses {
		n := &netlink.Addr{IPNet: &net.IPNet{IP: a.Addr().AsSlice(), Mask: net.CIDRMask(a.Bits(), a.Addr().BitLen())}}
		if a.Addr().Is6() {
			n.Flags = unix.IFA_F_NODAD // usable at once
		}
		if err := netlink.AddrReplace(p.link, n); err != nil {
			return fmt.Errorf("set the address %v: %w", a, err)
		}
	}
	for _, g := range l.gateways {
		r := &netlink.Route{LinkIndex: p.link.Attrs().Index, Gw: g.AsSlice(), Flags: int(netlink.FLAG_ONLINK)}
		if err := netlink.RouteReplace(r); err != nil {
			return fmt.Errorf("set the default route by %v: %w", g, err)
		}
	}
	return nil
}

func (p *port) dhcp4(ctx context.Context) (lease, error) {
	deadline, _ := ctx.Deadline()
	c, err := nclient4.New(p.link.Attrs().Name, nclient4.WithTimeout(askAgain), nclient4.WithRetry(tries(deadline)))
	if err != nil {
		return lease{}, fmt.Errorf("open a packet socket: %w; the kernel needs CONFIG_PACKET", err)
	}
	defer c.Close()
	got, err := c.Request(ctx, dhcpv4.WithRequestedOptions(
		dhcpv4.OptionSubnetMask, dhcpv4.OptionRouter, dhcpv4.OptionDomainNameServer, dhcpv4.OptionInterfaceMTU))
	if err != nil {
		return lease{}, noLease(err)
	}
	return fromDHCP4(got.ACK)
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
	l := lease{addresses: []netip.Prefix{netip.PrefixFrom(addr, bits)}}
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

func (p *port) dhcp6(ctx context.Context) (lease, error) {
	if err := p.waitLinkLocal(ctx); err != nil {
		return lease{}, err
	}
	deadline, _ := ctx.Deadline()
	name := p.link.Attrs().Name
	conn, err := nclient6.NewIPv6UDPConn(name, dhcpv6.DefaultClientPort)
	if err != nil {
		return lease{}, fmt.Errorf("open a socket: %w", err)
	}
	c, err := nclient6.NewWithConn(conn, p.link.Attrs().HardwareAddr, nclient6.WithTimeout(askAgain), nclient6.WithRetry(tries(deadline)))
	if err != nil {
		conn.Close()
		return lease{}, err
	}
	defer c.Close()
	got, err := c.RapidSolicit(ctx, dhcpv6.WithRequestedOptions(dhcpv6.OptionDNSRecursiveNameServer))
	if err != nil {
		return lease{}, noLease(err)
	}
	return fromDHCP6(got)
}

func fromDHCP6(reply *dhcpv6.Message) (lease, error) {
	var l lease
	for _, na := range reply.Options.IANA() {
		for _, a := range na.Options.Addresses() {
			addr, ok := netip.AddrFromSlice(a.IPv6Addr.To16())
			if ok && addr.IsGlobalUnicast() && !addr.Is4In6() && a.ValidLifetime > 0 && len(l.addresses) < maxV6 {
				l.addresses = append(l.addresses, netip.PrefixFrom(addr, 128)) // routes come from the router
			}
		}
	}
	if len(l.addresses) == 0 {
		return lease{}, errors.New("the server offers no address")
	}
	l.dns = takeDNS(reply.Options.DNS())
	return l, nil
}

// slaac waits until the kernel has made itself an address from a router's
// advertisement.
func (p *port) slaac(ctx context.Context, hints *raHints) (lease, error) {
	for {
		addrs, err := netlink.AddrList(p.link, netlink.FAMILY_V6)
		if err != nil {
			return lease{}, fmt.Errorf("list the addresses: %w", err)
		}
		l := lease{routed: true}
		for _, a := range addrs {
			// DHCPv6 adds its own as permanent.
			if a.Flags&(unix.IFA_F_TENTATIVE|unix.IFA_F_DADFAILED|unix.IFA_F_PERMANENT) != 0 || !a.IP.IsGlobalUnicast() {
				continue
			}
			if ip, ok := netip.AddrFromSlice(a.IP); ok {
				bits, _ := a.Mask.Size()
				l.addresses = append(l.addresses, netip.PrefixFrom(ip, bits))
			}
		}
		if len(l.addresses) > 0 {
			l.dns = hints.servers()
			return l, nil
		}
		if err := sleep(ctx, pollEvery); err != nil {
			return lease{}, errors.New("no router answered")
		}
	}
}

// waitLinkLocal waits until the link-local address may be used.
func (p *port) waitLinkLocal(ctx context.Context) error {
	for {
		addrs, err := netlink.AddrList(p.link, netlink.FAMILY_V6)
		if err != nil {
			return fmt.Errorf("list the addresses: %w", err)
		}
		for _, a := range addrs {
			if a.IP.IsLinkLocalUnicast() && a.Flags&unix.IFA_F_TENTATIVE == 0 {
				return nil
			}
		}
		if err := sleep(ctx, pollEvery); err != nil {
			return fmt.Errorf("no link-local address: %w", err)
		}
	}
}

// tries makes a client ask until the deadline, which ends it anyway.
func tries(deadline time.Time) int {
	return max(1, int(time.Until(deadline)/askAgain))
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

// writeResolvConf is read by Go's resolver. The file is replaced in one step,
// so that no look-up sees half of it.
func writeResolvConf(path string, servers []netip.Addr) error {
	var b bytes.Buffer
	for _, a := range servers[:min(len(servers), maxDNS)] {
		fmt.Fprintf(&b, "nameserver %v\n", a)
	}
	b.WriteString("options timeout:3 attempts:2\n")
	if err := atomicfile.Write(path, b.Bytes(), 0o644); err != nil {
		return fmt.Errorf("write the DNS servers: %w", err)
	}
	return nil
}

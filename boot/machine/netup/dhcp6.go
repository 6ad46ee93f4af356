package netup

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"slices"

	"github.com/insomniacslk/dhcp/dhcpv6"
	"github.com/insomniacslk/dhcp/dhcpv6/nclient6"
	"github.com/insomniacslk/dhcp/iana"
	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/sealboot/sealboot/boot/config"
	"github.com/sealboot/sealboot/measure/pause"
)

// dhcp6 asks until it has a lease or ctx ends.
func (p *port) dhcp6(ctx context.Context) (lease, error) {
	c, err := p.client6(ctx)
	if err != nil {
		return lease{}, err
	}
	defer c.Close()
	return search(ctx, p.shun, server6,
		func(ctx context.Context, shun *shunned) (*dhcpv6.Message, error) { return p.solicit6(ctx, c, shun) },
		func(ctx context.Context, m *dhcpv6.Message) (lease, error) { return p.accept6(ctx, c, m) })
}

func (p *port) client6(ctx context.Context) (*nclient6.Client, error) {
	if err := p.waitLinkLocal(ctx); err != nil {
		return nil, err
	}
	conn, err := nclient6.NewIPv6UDPConn(p.link.Attrs().Name, dhcpv6.DefaultClientPort)
	if err != nil {
		return nil, fmt.Errorf("open a socket: %w", err)
	}
	c, err := nclient6.NewWithConn(conn, p.link.Attrs().HardwareAddr, nclient6.WithTimeout(askAgain), nclient6.WithRetry(-1))
	if err != nil {
		conn.Close()
		return nil, err
	}
	return c, nil
}

// id names this machine to servers. Unlike the library's it has no time in it: a
// machine that asks in every round must not use up one address after the other.
func (p *port) id() dhcpv6.DUID {
	return &dhcpv6.DUIDLL{HWType: iana.HWTypeEthernet, LinkLayerAddr: p.link.Attrs().HardwareAddr}
}

// solicit6 returns the first answer of a server that is heard: an advertisement,
// or the lease at once.
func (p *port) solicit6(ctx context.Context, c *nclient6.Client, shun *shunned) (*dhcpv6.Message, error) {
	m, err := dhcpv6.NewSolicit(p.link.Attrs().HardwareAddr, dhcpv6.WithRapidCommit)
	if err != nil {
		return nil, err
	}
	m.UpdateOption(dhcpv6.OptClientID(p.id()))
	return c.SendAndRead(ctx, nclient6.AllDHCPRelayAgentsAndServers, m, func(m *dhcpv6.Message) bool {
		answer := m.MessageType == dhcpv6.MessageTypeAdvertise || m.MessageType == dhcpv6.MessageTypeReply
		return answer && shun.hears(server6(m))
	})
}

func (p *port) accept6(ctx context.Context, c *nclient6.Client, m *dhcpv6.Message) (lease, error) {
	if m.MessageType == dhcpv6.MessageTypeAdvertise {
		ctx, cancel := context.WithTimeout(ctx, 3*askAgain)
		defer cancel()
		request, err := dhcpv6.NewRequestFromAdvertise(m)
		if err != nil {
			return lease{}, err
		}
		server := server6(m)
		m, err = c.SendAndRead(ctx, nclient6.AllDHCPRelayAgentsAndServers, request, func(m *dhcpv6.Message) bool {
			return m.MessageType == dhcpv6.MessageTypeReply && server6(m) == server
		})
		if err != nil {
			return lease{}, noLease(err)
		}
	}
	l, err := fromDHCP6(m)
	if err != nil {
		return lease{}, err
	}
	l.renew = func(ctx context.Context, anyServer bool) (terms, error) {
		return p.renew6(ctx, m, l.addresses, anyServer)
	}
	return l, nil
}

func server6(m *dhcpv6.Message) string {
	if id := m.Options.ServerID(); id != nil {
		return fmt.Sprintf("%s %x", config.DHCP6, id.ToBytes())
	}
	return config.DHCP6
}

func fromDHCP6(reply *dhcpv6.Message) (lease, error) {
	l := lease{server: server6(reply)}
	l.addresses, l.terms = identity6(reply)
	if len(l.addresses) == 0 {
		return lease{}, errors.New("the server offers no address")
	}
	l.dns = takeDNS(reply.Options.DNS())
	return l, nil
}

// identity6 are the addresses in a reply that can be used, and their common terms.
func identity6(reply *dhcpv6.Message) (addresses []netip.Prefix, t terms) {
	renew, rebind, end := infinite, infinite, infinite
	for _, na := range reply.Options.IANA() {
		for _, a := range na.Options.Addresses() {
			addr, ok := netip.AddrFromSlice(a.IPv6Addr.To16())
			if ok && addr.IsGlobalUnicast() && !addr.Is4In6() && a.ValidLifetime > 0 && len(addresses) < maxV6 {
				addresses = append(addresses, netip.PrefixFrom(addr, 128)) // routes come from the router
				renew, rebind, end = min(renew, na.T1), min(rebind, na.T2), min(end, a.ValidLifetime)
			}
		}
	}
	return addresses, newTerms(renew, rebind, end)
}

// renew6 asks for more time for all addresses of a lease, as renew4 does.
func (p *port) renew6(ctx context.Context, reply *dhcpv6.Message, addresses []netip.Prefix, anyServer bool) (terms, error) {
	c, err := p.client6(ctx)
	if err != nil {
		return terms{}, err
	}
	defer c.Close()
	m, err := dhcpv6.NewMessage(dhcpv6.WithClientID(p.id()), dhcpv6.WithOption(dhcpv6.OptElapsedTime(0)))
	if err != nil {
		return terms{}, err
	}
	m.MessageType = dhcpv6.MessageTypeRebind
	if id := reply.Options.ServerID(); !anyServer && id != nil {
		m.MessageType = dhcpv6.MessageTypeRenew
		m.AddOption(dhcpv6.OptServerID(id))
	}
	for _, na := range reply.Options.IANA() {
		m.AddOption(na)
	}
	server := server6(reply)
	got, err := c.SendAndRead(ctx, nclient6.AllDHCPRelayAgentsAndServers, m, func(m *dhcpv6.Message) bool {
		if m.MessageType != dhcpv6.MessageTypeReply {
			return false
		}
		return server6(m) == server || anyServer && covers(m, addresses)
	})
	if err != nil {
		return terms{}, noLease(err)
	}
	if !covers(got, addresses) {
		return terms{}, errTakenBack
	}
	_, t := identity6(got)
	return t, nil
}

// covers reports whether a reply gives time to all of the addresses.
func covers(m *dhcpv6.Message, addresses []netip.Prefix) bool {
	given, _ := identity6(m)
	return !slices.ContainsFunc(addresses, func(a netip.Prefix) bool { return !slices.Contains(given, a) })
}

// waitLinkLocal waits until the link-local address may be used.
func (p *port) waitLinkLocal(ctx context.Context) error {
	for {
		addrs, err := p.listAddresses(netlink.FAMILY_V6)
		if err != nil {
			return fmt.Errorf("list the addresses: %w", err)
		}
		for _, a := range addrs {
			if a.IP.IsLinkLocalUnicast() && a.Flags&unix.IFA_F_TENTATIVE == 0 {
				return nil
			}
		}
		if err := pause.For(ctx, pollEvery); err != nil {
			return fmt.Errorf("no link-local address: %w", err)
		}
	}
}

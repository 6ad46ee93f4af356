package netup

import (
	"bytes"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"path/filepath"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/sealboot/sealboot/measure/atomicfile"
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
		n := toNetlink(a)
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

func toNetlink(a netip.Prefix) *netlink.Addr {
	return &netlink.Addr{IPNet: &net.IPNet{IP: a.Addr().AsSlice(), Mask: net.CIDRMask(a.Bits(), a.Addr().BitLen())}}
}

// clear takes from the port what somebody has told it before: addresses, routes,
// neighbours and the MTU, and has IPv6 ask for routers again. The link stays up:
// a switch that has lost a carrier may forward nothing for half a minute.
func (p *port) clear() error {
	// With IPv6 off the kernel drops all of it; up turns it on again.
	if err := p.setIPv6("disable_ipv6", "1"); err != nil {
		return err
	}
	addrs, err := p.listAddresses(netlink.FAMILY_V4)
	if err != nil {
		return fmt.Errorf("list the addresses: %w", err)
	}
	for _, a := range addrs {
		// The last address takes its routes with it.
		if err := netlink.AddrDel(p.link, &a); err != nil && !errors.Is(err, unix.EADDRNOTAVAIL) {
			return fmt.Errorf("remove the address %v: %w", a.IPNet, err)
		}
	}
	neighbours, err := netlink.NeighList(p.link.Attrs().Index, netlink.FAMILY_V4)
	if err != nil {
		return fmt.Errorf("list the neighbours: %w", err)
	}
	for _, n := range neighbours {
		_ = netlink.NeighDel(&n) // it may be gone by itself
	}
	if p.mtu != 0 {
		if err := netlink.LinkSetMTU(p.link, p.mtu); err != nil {
			return fmt.Errorf("set the MTU back to %d: %w", p.mtu, err)
		}
	}
	return nil
}

// setIPv6 writes one of the kernel's settings. Without IPv6 in the kernel there are none.
func (p *port) setIPv6(file, value string) error {
	err := os.WriteFile(filepath.Join("/proc/sys/net/ipv6/conf", p.link.Attrs().Name, file), []byte(value), 0)
	if err != nil && !errors.Is(err, os.ErrNotExist) {
		return fmt.Errorf("set %s: %w", file, err)
	}
	return nil
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

func (p *port) listAddresses(family int) ([]netlink.Addr, error) {
	return dump(func() ([]netlink.Addr, error) { return netlink.AddrList(p.link, family) })
}

// dump lists what the kernel has of a kind, again if it changed meanwhile: who floods the link with advertisements must
// not make a network that is there look like one that is gone.
func dump[T any](list func() ([]T, error)) (all []T, err error) {
	for range 20 {
		if all, err = list(); !errors.Is(err, netlink.ErrDumpInterrupted) {
			break
		}
	}
	return all, err
}

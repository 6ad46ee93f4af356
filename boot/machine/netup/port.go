package netup

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/vishvananda/netlink"

	"github.com/sealboot/sealboot/boot/config"
	"github.com/sealboot/sealboot/measure/pause"
)

const (
	pollEvery = 100 * time.Millisecond
	maxPorts  = 16 // tried at once when the host config names none
)

// A port is one link and how it is to get its addresses.
type port struct {
	link netlink.Link
	conf config.Interface
	shun *shunned
	mtu  int  // as it was before any lease; 0 if it is not known
	made bool // the link is a VLAN that was made here
}

// findPorts returns the links of the machine that want names, waiting for
// drivers to bring them.
func findPorts(ctx context.Context, want []config.Interface, timeout time.Duration) ([]*port, error) {
	ctx, cancel := context.WithTimeout(ctx, timeout)
	defer cancel()
	for {
		links, err := dump(netlink.LinkList)
		if err != nil {
			return nil, fmt.Errorf("list the links: %w", err)
		}
		ports, missing := choose(links, want)
		if len(ports) > 0 && len(missing) == 0 {
			return ports, nil
		}
		if pause.For(ctx, pollEvery) != nil {
			if len(ports) > 0 { // some of those that the host config names
				return ports, nil
			}
			return nil, fmt.Errorf("%w: want %s, found %s; if the card is there, the loader's kernel lacks its driver", ErrNoLink, strings.Join(missing, ", "), names(links))
		}
	}
}

func choose(links []netlink.Link, want []config.Interface) (ports []*port, missing []string) {
	if len(want) == 0 {
		for _, l := range links {
			if ethernet(l) && len(ports) < maxPorts {
				ports = append(ports, &port{link: l})
			}
		}
		if len(ports) == 0 {
			missing = append(missing, "any Ethernet interface")
		}
		return ports, missing
	}
	for _, w := range want {
		l := find(links, w)
		if l == nil {
			missing = append(missing, w.Name+w.MAC)
			continue
		}
		ports = append(ports, &port{link: l, conf: w})
	}
	return ports, missing
}

func find(links []netlink.Link, w config.Interface) netlink.Link {
	mac, _ := net.ParseMAC(w.MAC)
	for _, l := range links {
		a := l.Attrs()
		if a.Flags&net.FlagLoopback != 0 {
			continue // an address there would take what is for others
		}
		if w.Name != "" && a.Name == w.Name || w.MAC != "" && ethernet(l) && a.HardwareAddr.String() == mac.String() {
			return l
		}
	}
	return nil
}

// ethernet reports whether l is a card, as against a bridge, a VLAN or a tunnel.
func ethernet(l netlink.Link) bool {
	return l.Attrs().EncapType == "ether" && (l.Type() == "device" || l.Type() == "veth")
}

func names(links []netlink.Link) string {
	var all []string
	for _, l := range links {
		all = append(all, l.Attrs().Name)
	}
	return strings.Join(all, ", ")
}

// A result is how a port came up, or why not.
type result struct {
	port   *port
	hints  *raHints
	link   string
	method string
	lease  lease
	err    error
}

func (r *result) network() *Network {
	return &Network{Link: r.link, Method: r.method, Addresses: r.lease.addresses, Gateways: r.lease.gateways, DNS: r.lease.dns}
}

// configure brings the port up and gives it its addresses.
func (p *port) configure(ctx context.Context, o Options) result {
	name := p.link.Attrs().Name
	fail := func(err error) result { return result{err: fmt.Errorf("%s: %w", name, err)} }
	hints := listenRA(ctx, p.link.Attrs().Index)
	defer func() { hints.close() }() // a keeper listens again
	if err := p.up(); err != nil {
		return fail(err)
	}
	if p.conf.VLAN != 0 {
		if err := p.vlan(); err != nil {
			return fail(err)
		}
		name = p.link.Attrs().Name
		hints.close()
		hints = listenRA(ctx, p.link.Attrs().Index)
	}
	if err := p.carrier(ctx, o.LinkTimeout); err != nil {
		return fail(err)
	}
	if len(p.conf.Addresses) > 0 {
		l, err := p.static()
		if err != nil {
			return fail(err)
		}
		return result{port: p, hints: hints, link: name, method: "static", lease: l}
	}
	method, l, err := p.automatic(ctx, o.LeaseTimeout, hints)
	if err != nil {
		return fail(err)
	}
	return result{port: p, hints: hints, link: name, method: method, lease: l}
}

// up brings the link up, without what an earlier use of it has left.
func (p *port) up() error {
	if err := p.clear(); err != nil {
		return err
	}
	// A loader must take part in IPv6 even where the kernel's default is off.
	for _, s := range [][2]string{{"accept_ra", p.acceptRA()}, {"autoconf", p.autoconf()}, {"disable_ipv6", "0"}} {
		if err := p.setIPv6(s[0], s[1]); err != nil {
			return err
		}
	}
	if p.conf.MTU != 0 {
		if err := netlink.LinkSetMTU(p.link, p.conf.MTU); err != nil {
			return fmt.Errorf("set the MTU to %d: %w", p.conf.MTU, err)
		}
	}
	if err := netlink.LinkSetUp(p.link); err != nil {
		return fmt.Errorf("bring the link up: %w", err)
	}
	return nil
}

// leave takes back all that the port was given, after which it is no port any more.
func (p *port) leave() {
	if p.made {
		_ = netlink.LinkDel(p.link) // with all that was set on it
		return
	}
	_ = p.clear() // what stays, the next use of the link takes back
}

func (p *port) autoconf() string {
	if p.conf.VLAN == 0 && p.wants(config.SLAAC) {
		return "1"
	}
	return "0"
}

// acceptRA says whether advertisements may set routes: not on a link that only
// carries a VLAN, nor where the host config has said all there is to say.
func (p *port) acceptRA() string {
	v6 := func(s string) bool { return strings.Contains(s, ":") }
	routed := slices.ContainsFunc(p.conf.Addresses, v6) && !slices.ContainsFunc(p.conf.Gateways, v6)
	if p.conf.VLAN == 0 && (routed || p.wants(config.SLAAC) || p.wants(config.DHCP6)) {
		return "2"
	}
	return "0"
}

// vlan makes p the VLAN of the host config on p's link.
func (p *port) vlan() error {
	parent := p.link.Attrs()
	name := fmt.Sprintf("%.10s.%d", parent.Name, p.conf.VLAN) // at most 15 bytes
	if old, err := netlink.LinkByName(name); err == nil && old.Type() == "vlan" {
		_ = netlink.LinkDel(old) // with all that was set on it
	}
	v := &netlink.Vlan{LinkAttrs: netlink.LinkAttrs{Name: name, ParentIndex: parent.Index}, VlanId: p.conf.VLAN}
	if err := netlink.LinkAdd(v); err != nil && !errors.Is(err, os.ErrExist) {
		return fmt.Errorf("make VLAN %d: %w; the kernel needs CONFIG_VLAN_8021Q", p.conf.VLAN, err)
	}
	l, err := netlink.LinkByName(name)
	if err != nil {
		return fmt.Errorf("find VLAN %d: %w", p.conf.VLAN, err)
	}
	p.link, p.conf.MTU, p.conf.VLAN, p.mtu, p.made = l, 0, 0, 0, true
	return p.up()
}

func (p *port) carrier(ctx context.Context, timeout time.Duration) error {
	ctx, cancel := context.WithTimeout(ctx, timeout)
	defer cancel()
	for {
		l, err := netlink.LinkByIndex(p.link.Attrs().Index)
		if err != nil {
			return fmt.Errorf("ask for the carrier: %w", err)
		}
		if l.Attrs().Flags&net.FlagRunning != 0 {
			return nil
		}
		if pause.For(ctx, pollEvery) != nil {
			return fmt.Errorf("%w after %v; check the cable and the switch", ErrNoCarrier, timeout)
		}
	}
}

func (p *port) wants(method string) bool {
	if len(p.conf.Addresses) > 0 {
		return false
	}
	return len(p.conf.Methods) == 0 || slices.Contains(p.conf.Methods, method)
}

func (p *port) static() (lease, error) {
	l := lease{gateways: parseAddrs(p.conf.Gateways)}
	for _, s := range p.conf.Addresses {
		a, err := netip.ParsePrefix(s)
		if err != nil {
			return lease{}, err
		}
		l.addresses = append(l.addresses, a)
	}
	return l, p.apply(l)
}

// automatic runs all wanted methods at once; the first lease wins.
func (p *port) automatic(ctx context.Context, timeout time.Duration, hints *raHints) (string, lease, error) {
	ctx, cancel := context.WithTimeout(ctx, timeout)
	defer cancel()
	type answer struct {
		method string
		lease  lease
		err    error
	}
	methods := map[string]func(context.Context) (lease, error){
		config.DHCP4: p.dhcp4,
		config.DHCP6: p.dhcp6,
		config.SLAAC: func(ctx context.Context) (lease, error) { return p.slaac(ctx, hints) },
	}
	answers := make(chan answer, len(methods))
	var running sync.WaitGroup
	started := 0
	for name, ask := range methods {
		if !p.wants(name) {
			continue
		}
		started++
		running.Go(func() {
			l, err := ask(ctx)
			answers <- answer{name, l, err}
		})
	}
	defer running.Wait()
	defer cancel()
	var errs []error
	for range started {
		a := <-answers
		if a.err == nil {
			a.err = p.apply(a.lease)
		}
		if a.err == nil {
			return a.method, a.lease, nil
		}
		errs = append(errs, fmt.Errorf("%s: %w", a.method, a.err))
	}
	return "", lease{}, fmt.Errorf("%w after %v; check the network's DHCP server or router, or name a static address in the host config:\n%w",
		ErrNoAddress, timeout, errors.Join(errs...))
}

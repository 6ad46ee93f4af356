// Package netup brings the network of a loader up, and down again before
// kexec.
//
// It promises to end by its deadlines whatever the network does: links that
// never come, servers that never answer. Every interface and every method is
// tried at once and the first that yields an address wins, because people wait
// in front of the machine while an unused IPv6 or IPv4 times out. Nothing that
// a DHCP server or a router says is believed beyond addresses, routes, DNS
// servers and the MTU.
//
// Nor does the first answer bind for ever: a server in the wrong place may be the
// quicker one. A lease is kept as long as its server renews it and given up when
// it ends, and a caller that got nowhere makes the network anew with
// [Options.Before], where a server that led there twice running is heard last.
package netup

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"net/http"
	"net/netip"
	"net/url"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/vishvananda/netlink"
	"golang.org/x/net/http/httpproxy"

	"github.com/sealboot/sealboot/boot/config"
)

// Options are the deadlines and the place of the resolver's configuration.
// The zero Options are the right ones.
type Options struct {
	// LinkTimeout is how long to wait for interfaces to appear and for
	// their carrier; 0 means 15 s.
	LinkTimeout time.Duration
	// LeaseTimeout is how long to wait for an address after that; 0 means
	// 30 s.
	LeaseTimeout time.Duration
	// ResolvConf is the resolver's configuration; empty means
	// /etc/resolv.conf.
	ResolvConf string
	// Before is the network that this one replaces: Up closes it, takes back what
	// it has set, and hears a server that led nowhere twice running last. It may be nil.
	Before *Network
	// Report learns what becomes of the network later, such as a lease that ended;
	// nil drops it.
	Report func(error)
}

func (o Options) withDefaults() Options {
	if o.LinkTimeout == 0 {
		o.LinkTimeout = 15 * time.Second
	}
	if o.LeaseTimeout == 0 {
		o.LeaseTimeout = 30 * time.Second
	}
	if o.ResolvConf == "" {
		o.ResolvConf = "/etc/resolv.conf"
	}
	if o.Report == nil {
		o.Report = func(error) {}
	}
	return o
}

// ErrNoLink is the error when the machine has no interface to try.
var ErrNoLink = errors.New("no such network interface")

// ErrNoCarrier is the error when no cable is plugged in.
var ErrNoCarrier = errors.New("no carrier")

// ErrNoAddress is the error when nothing gave the machine an address.
var ErrNoAddress = errors.New("no address")

// A Network is what came up. Its lease is kept until Close, and what is said here
// is how it began.
type Network struct {
	Link      string         // "eth0", or "eth0.7" on a VLAN
	Method    string         // static, dhcp4, dhcp6 or slaac
	Addresses []netip.Prefix // the interface's
	Gateways  []netip.Addr   // default routes that were set here
	DNS       []netip.Addr   // servers in use

	proxy  func(*url.URL) (*url.URL, error)
	keeper *keeper
}

// String is the network on one line, for the console.
func (n *Network) String() string {
	var b strings.Builder
	fmt.Fprintf(&b, "%s %s", n.Link, n.Method)
	for _, a := range n.Addresses {
		fmt.Fprintf(&b, " %v", a)
	}
	return b.String()
}

// Proxy is for http.Transport.Proxy.
func (n *Network) Proxy(r *http.Request) (*url.URL, error) {
	if n == nil || n.proxy == nil {
		return nil, nil
	}
	return n.proxy(r.URL)
}

// Close ends what Up has begun and leaves the links as they are.
func (n *Network) Close() {
	if n != nil && n.keeper != nil {
		n.keeper.stop()
	}
}

// Up brings the network up as host says; nil means the default of
// [config.Host]. ctx bounds that; the lease is then kept until Close.
func Up(ctx context.Context, host *config.Host, o Options) (*Network, error) {
	o = o.withDefaults()
	o.Before.Close()
	if host == nil {
		host = new(config.Host)
	}
	if err := loopback(); err != nil {
		return nil, err
	}
	ports, err := findPorts(ctx, host.Interfaces, o.LinkTimeout)
	if err != nil {
		return nil, fmt.Errorf("network: %w", err)
	}
	o.Before.leave(ports)
	mtus, suspect := o.Before.prepare(ports, o.LeaseTimeout)
	got, err := race(ctx, ports, o)
	if err != nil {
		return nil, fmt.Errorf("network: %w", err)
	}
	n := got.network()
	o.Before = nil // or each network would keep all before it
	n.keeper = &keeper{port: got.port, o: o, mtus: mtus, suspect: suspect, hints: got.hints, got: got}
	if len(host.DNS) > 0 {
		n.DNS = parseAddrs(host.DNS)
		n.keeper.dns = n.DNS
	}
	if err := writeResolvConf(o.ResolvConf, n.DNS); err != nil {
		return nil, fmt.Errorf("network: %w", err)
	}
	if host.Proxy != "" {
		c := httpproxy.Config{HTTPProxy: host.Proxy, HTTPSProxy: host.Proxy, NoProxy: strings.Join(host.NoProxy, ",")}
		n.proxy = c.ProxyFunc()
	}
	n.keeper.keep(ctx)
	return n, nil
}

// leave takes back what the port of the network before was given, if it is none of those to come: a route there would lead
// away from the network that is made now. A port that is used again is cleared then.
func (n *Network) leave(ports []*port) {
	if n == nil || n.keeper == nil {
		return
	}
	old := n.keeper.port
	if !slices.ContainsFunc(ports, func(p *port) bool { return p.link.Attrs().Index == old.link.Attrs().Index }) {
		old.leave()
	}
}

// prepare tells the ports what the network before has taught: whom to hear last,
// and what their MTU was. A third of the time goes to servers that are not known
// yet. It returns what the network after this one has to know.
func (n *Network) prepare(ports []*port, timeout time.Duration) (mtus map[string]int, suspect string) {
	shun := new(shunned)
	mtus = make(map[string]int)
	if n != nil && n.keeper != nil {
		shun.servers, suspect = n.keeper.shun()
		shun.until = time.Now().Add(timeout / 3)
		maps.Copy(mtus, n.keeper.mtus)
	}
	for _, p := range ports {
		a := p.link.Attrs()
		if _, known := mtus[a.Name]; !known {
			mtus[a.Name] = a.MTU
		}
		p.shun, p.mtu = shun, mtus[a.Name]
	}
	return mtus, suspect
}

// race configures all ports at once and returns the first that is ready. The
// others have stopped when it returns.
func race(ctx context.Context, ports []*port, o Options) (*result, error) {
	ctx, cancel := context.WithTimeout(ctx, o.LinkTimeout+o.LeaseTimeout)
	defer cancel()
	results := make(chan result)
	var running sync.WaitGroup
	for _, p := range ports {
		running.Go(func() {
			r := p.configure(ctx, o)
			if r.err != nil {
				p.leave()
			}
			select {
			case results <- r:
			case <-ctx.Done():
			}
		})
	}
	defer running.Wait()
	defer cancel()
	var errs []error
	for range ports {
		select {
		case r := <-results:
			if r.err == nil {
				return &r, nil
			}
			errs = append(errs, r.err)
		case <-ctx.Done():
			return nil, errors.Join(append(errs, fmt.Errorf("%w: %w", ErrNoAddress, context.Cause(ctx)))...)
		}
	}
	return nil, errors.Join(errs...)
}

// Down takes every Ethernet link down, so that no card writes into the memory
// of the next kernel. It goes on after an error and returns all of them.
func Down() error {
	links, err := dump(netlink.LinkList)
	if err != nil {
		return fmt.Errorf("network down: list the links: %w", err)
	}
	var errs []error
	for _, l := range slices.Backward(links) { // a VLAN goes before its link
		if l.Attrs().EncapType != "ether" {
			continue
		}
		if err := netlink.LinkSetDown(l); err != nil {
			errs = append(errs, fmt.Errorf("network down: %s: %w", l.Attrs().Name, err))
		}
	}
	return errors.Join(errs...)
}

func loopback() error {
	lo, err := netlink.LinkByName("lo")
	if err != nil {
		return fmt.Errorf("network: find lo: %w; the kernel needs CONFIG_NET", err)
	}
	if err := netlink.LinkSetUp(lo); err != nil {
		return fmt.Errorf("network: bring lo up: %w", err)
	}
	return nil
}

// parseAddrs reads addresses that config has checked.
func parseAddrs(texts []string) []netip.Addr {
	var out []netip.Addr
	for _, s := range texts {
		if a, err := netip.ParseAddr(s); err == nil {
			out = append(out, a)
		}
	}
	return out
}

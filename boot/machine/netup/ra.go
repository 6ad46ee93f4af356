package netup

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"maps"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netlink/nl"
	"golang.org/x/sys/unix"

	"github.com/sealboot/sealboot/boot/config"
	"github.com/sealboot/sealboot/measure/pause"
)

const (
	// From linux/rtnetlink.h; not in x/sys.
	newNDUserOpt    = 68
	groupNDUserOpt  = 20
	ndUserOptHeader = 16

	optRDNSS = 25 // RFC 8106, section 5.1
)

// raHints collects the DNS servers of router advertisements. The kernel makes
// addresses and routes of these by itself and ends them in time, but hands DNS
// servers on.
type raHints struct {
	mu   sync.Mutex
	dns  map[netip.Addr]time.Time // until when
	stop func()
}

// listenRA starts to collect for one link. Without the kernel's help there are
// no hints, which is no error: DNS may come from elsewhere.
func listenRA(ctx context.Context, link int) *raHints {
	h := &raHints{dns: make(map[netip.Addr]time.Time)}
	h.listen(ctx, link)
	return h
}

// listen goes on collecting until ctx or close.
func (h *raHints) listen(ctx context.Context, link int) {
	h.stop = func() {}
	s, err := nl.Subscribe(unix.NETLINK_ROUTE, groupNDUserOpt)
	if err != nil {
		return
	}
	var done sync.WaitGroup
	unhook := context.AfterFunc(ctx, s.Close)
	h.stop = func() {
		if unhook() {
			s.Close()
		}
		done.Wait()
	}
	done.Go(func() {
		for {
			messages, _, err := s.Receive()
			if err != nil {
				return
			}
			for _, m := range messages {
				if m.Header.Type == newNDUserOpt {
					h.add(rdnss(m.Data, link))
				}
			}
		}
	})
}

func (h *raHints) close() {
	h.stop()
	h.stop = func() {}
}

func (h *raHints) add(servers []netip.Addr, lifetime time.Duration) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.expire()
	for _, a := range servers {
		if _, known := h.dns[a]; !known && len(h.dns) >= maxDNS {
			continue
		}
		h.dns[a] = time.Now().Add(lifetime) // with lifetime 0 it is no longer to be used
	}
	h.expire()
}

func (h *raHints) expire() {
	now := time.Now()
	maps.DeleteFunc(h.dns, func(_ netip.Addr, until time.Time) bool { return !now.Before(until) })
}

func (h *raHints) servers() []netip.Addr {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.expire()
	return slices.SortedFunc(maps.Keys(h.dns), netip.Addr.Compare)
}

// rdnss reads a nduseroptmsg and the RDNSS option in it.
func rdnss(b []byte, link int) ([]netip.Addr, time.Duration) {
	if len(b) < ndUserOptHeader || b[0] != unix.AF_INET6 {
		return nil, 0
	}
	if int32(binary.NativeEndian.Uint32(b[4:])) != int32(link) {
		return nil, 0
	}
	size := int(binary.NativeEndian.Uint16(b[2:]))
	o := b[ndUserOptHeader:]
	// Type, length in units of 8 bytes, 2 reserved, lifetime, addresses.
	if size > len(o) || size < 24 || o[0] != optRDNSS || int(o[1])*8 > size {
		return nil, 0
	}
	var out []netip.Addr
	for at := 8; at+16 <= int(o[1])*8; at += 16 {
		a := netip.AddrFrom16([16]byte(o[at : at+16]))
		if !a.IsUnspecified() && !a.IsMulticast() && !a.IsLinkLocalUnicast() {
			out = append(out, a)
		}
	}
	return out, time.Duration(binary.BigEndian.Uint32(o[4:])) * time.Second
}

// slaac waits until the kernel has made itself an address from a router's
// advertisement.
func (p *port) slaac(ctx context.Context, hints *raHints) (lease, error) {
	for {
		l, err := p.advertised(hints)
		if err != nil {
			return lease{}, err
		}
		if len(l.addresses) > 0 && p.shun.hears(l.server) {
			return l, nil
		}
		if err := pause.For(ctx, pollEvery); err != nil {
			return lease{}, errors.New("no router answered")
		}
	}
}

// advertised is what the kernel has at this moment from advertisements.
func (p *port) advertised(hints *raHints) (lease, error) {
	addrs, err := p.listAddresses(netlink.FAMILY_V6)
	if err != nil {
		return lease{}, fmt.Errorf("list the addresses: %w", err)
	}
	l := lease{routed: true, dns: hints.servers()}
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
	l.server, err = p.routers()
	return l, err
}

// routers names the routers that have advertised themselves.
func (p *port) routers() (string, error) {
	routes, err := dump(func() ([]netlink.Route, error) {
		return netlink.RouteListFiltered(netlink.FAMILY_V6, &netlink.Route{LinkIndex: p.link.Attrs().Index, Protocol: unix.RTPROT_RA},
			netlink.RT_FILTER_OIF|netlink.RT_FILTER_PROTOCOL)
	})
	if err != nil {
		return "", fmt.Errorf("list the routes: %w", err)
	}
	names := []string{config.SLAAC}
	for _, r := range routes {
		if r.Gw != nil {
			names = append(names, r.Gw.String())
		}
	}
	slices.Sort(names[1:])
	return strings.Join(slices.Compact(names), " "), nil
}

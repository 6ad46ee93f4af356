package netup

import (
	"context"
	"encoding/binary"
	"net/netip"
	"slices"
	"sync"

	"github.com/vishvananda/netlink/nl"
	"golang.org/x/sys/unix"
)

const (
	// From linux/rtnetlink.h; not in x/sys.
	newNDUserOpt    = 68
	groupNDUserOpt  = 20
	ndUserOptHeader = 16

	optRDNSS = 25 // RFC 8106, section 5.1
)

// raHints collects the DNS servers of router advertisements. The kernel makes
// addresses and routes of these by itself, but hands DNS servers on.
type raHints struct {
	mu     sync.Mutex
	dns    []netip.Addr
	socket *nl.NetlinkSocket
	done   sync.WaitGroup
	stop   func() bool
}

// listenRA starts to collect for one link. Without the kernel's help there are
// no hints, which is no error: DNS may come from elsewhere.
func listenRA(ctx context.Context, link int) *raHints {
	h := new(raHints)
	s, err := nl.Subscribe(unix.NETLINK_ROUTE, groupNDUserOpt)
	if err != nil {
		return h
	}
	h.socket = s
	h.stop = context.AfterFunc(ctx, s.Close)
	h.done.Go(func() {
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
	return h
}

func (h *raHints) close() {
	if h.socket == nil {
		return
	}
	if h.stop() {
		h.socket.Close()
	}
	h.done.Wait()
	h.socket = nil
}

func (h *raHints) add(servers []netip.Addr) {
	h.mu.Lock()
	defer h.mu.Unlock()
	for _, a := range servers {
		if !slices.Contains(h.dns, a) && len(h.dns) < maxDNS {
			h.dns = append(h.dns, a)
		}
	}
}

func (h *raHints) servers() []netip.Addr {
	h.mu.Lock()
	defer h.mu.Unlock()
	return slices.Clone(h.dns)
}

// rdnss reads a nduseroptmsg and the RDNSS option in it.
func rdnss(b []byte, link int) []netip.Addr {
	if len(b) < ndUserOptHeader || b[0] != unix.AF_INET6 {
		return nil
	}
	if int32(binary.NativeEndian.Uint32(b[4:])) != int32(link) {
		return nil
	}
	size := int(binary.NativeEndian.Uint16(b[2:]))
	o := b[ndUserOptHeader:]
	// Type, length in units of 8 bytes, 2 reserved, lifetime, addresses.
	if size > len(o) || size < 24 || o[0] != optRDNSS || int(o[1])*8 > size {
		return nil
	}
	if binary.BigEndian.Uint32(o[4:]) == 0 {
		return nil // lifetime 0: no longer to be used
	}
	var out []netip.Addr
	for at := 8; at+16 <= int(o[1])*8; at += 16 {
		a := netip.AddrFrom16([16]byte(o[at : at+16]))
		if !a.IsUnspecified() && !a.IsMulticast() && !a.IsLinkLocalUnicast() {
			out = append(out, a)
		}
	}
	return out
}

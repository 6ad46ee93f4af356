package server

import (
	"net/netip"
	"time"
)

// network is the address itself for IPv4 and its /64 for IPv6, of which one customer has plenty.
func network(remote string) netip.Prefix {
	ap, err := netip.ParseAddrPort(remote)
	if err != nil {
		return netip.Prefix{}
	}
	a := ap.Addr().Unmap().WithZone("")
	bits := 64
	if a.Is4() {
		bits = 32
	}
	p, err := a.Prefix(bits)
	if err != nil {
		return netip.Prefix{}
	}
	return p
}

// maxLevels is how many networks [around] returns at most.
const maxLevels = 3

// around returns a network and those around it that may be in the same hands: a customer has a /56 or a /48 of IPv6, and
// addresses of IPv4 in a row. What bounds a network bounds these too, at their [share], or one customer would take all
// with a few of his 65,536 networks.
func around(n netip.Prefix) []netip.Prefix {
	out := append(make([]netip.Prefix, 0, maxLevels), n)
	if !n.IsValid() {
		return out
	}
	wider := []int{56, 48}
	if n.Addr().Is4() {
		wider = []int{24}
	}
	for _, bits := range wider {
		if p, err := n.Addr().Prefix(bits); err == nil {
			out = append(out, p)
		}
	}
	return out
}

// share is how many times the limit of one network a level of [around] may have. Each has more than the one inside it:
// who uses up a /56 leaves room for his neighbours in the /48. The widest has twice the limit of a network, which is a
// quarter of the whole or less, so half of it is left to all others.
func share(level int) float64 { return 1 + float64(level)/2 }

// place is what a networkLimiter counts by.
type place struct {
	device  string // "" where it does not matter
	network netip.Prefix
}

// networkLimiter is a limiter for each level of [around].
type networkLimiter [maxLevels]*limiter[place]

func newNetworkLimiter(rate, burst float64) *networkLimiter {
	var l networkLimiter
	for i := range l {
		l[i] = newLimiter[place](rate*share(i), burst*share(i))
		if i > 0 {
			l[i].debt = l[i].burst // or one network could leave its neighbours a debt of hours
		}
	}
	return &l
}

// allow takes a token at each level, or none. The widest is asked first: the networks of one that has nothing left get
// no buckets, whose number is bounded.
func (l *networkLimiter) allow(device string, from netip.Prefix, now time.Time) bool {
	networks := around(from)
	for i := len(networks) - 1; i >= 0; i-- {
		if l[i].allow(place{device, networks[i]}, now) {
			continue
		}
		for j := i + 1; j < len(networks); j++ {
			l[j].spend(place{device, networks[j]}, -1, now)
		}
		return false
	}
	return true
}

// allowAlone takes a token of the network itself and none of those around it.
func (l *networkLimiter) allowAlone(device string, from netip.Prefix, now time.Time) bool {
	return l[0].allow(place{device, from}, now)
}

// spend takes tokens for what was received already.
func (l *networkLimiter) spend(device string, from netip.Prefix, tokens float64, now time.Time) {
	for i, n := range around(from) {
		l[i].spend(place{device, n}, tokens, now)
	}
}

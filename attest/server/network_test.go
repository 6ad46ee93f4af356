package server

import (
	"fmt"
	"testing"
	"time"
)

// holdings are the addresses of one customer, an address of a neighbour of his, and one from elsewhere.
func holdings() map[string]struct {
	own              func(i int) string
	neighbour, other string
} {
	const elsewhere = "[2001:db8:ffff::1]:1"
	return map[string]struct {
		own              func(i int) string
		neighbour, other string
	}{
		"a /56 of IPv6": {func(i int) string { return fmt.Sprintf("[2001:db8:1:%x::1]:1", i%256) }, "[2001:db8:1:100::1]:1", elsewhere},
		"a /48 of IPv6": {func(i int) string { return fmt.Sprintf("[2001:db8:1:%x::1]:1", i%65536*257%65536) }, "", elsewhere},
		"a /24 of IPv4": {func(i int) string { return fmt.Sprintf("192.0.2.%d:1", i%256) }, "198.51.100.1:1", elsewhere},
		"mapped IPv4":   {func(i int) string { return fmt.Sprintf("[::ffff:192.0.2.%d]:1", i%256) }, "198.51.100.1:1", elsewhere},
	}
}

// TestOneCustomerTakesNotAll uses all networks that one customer has against everything that is bounded by network.
func TestOneCustomerTakesNotAll(t *testing.T) {
	now := time.Unix(1000, 0)
	for name, h := range holdings() {
		for what, enter := range map[string]func() func(remote string) bool{
			"connections": func() func(string) bool {
				l := limitConns(nil, 1000, 250, nil)
				return func(remote string) bool { return l.enter(network(remote)) }
			},
			"bytes in memory": func() func(string) bool {
				b := &budget{}
				return func(remote string) bool {
					const n = maxBodies / 1000
					ok := b.add(network(remote), n)
					if !ok {
						b.add(network(remote), -n)
					}
					return ok
				}
			},
			"requests": func() func(string) bool {
				l := newNetworkLimiter(1, 250)
				return func(remote string) bool { return l.allow("", network(remote), now) }
			},
		} {
			t.Run(name+"/"+what, func(t *testing.T) {
				enter, took := enter(), 0
				for i := range 2000 {
					if enter(h.own(i)) {
						took++
					}
				}
				if took < 125 || took > 500 {
					t.Errorf("took %d of 1000, want at most half, and more than one network", took)
				}
				if h.neighbour != "" && !enter(h.neighbour) {
					t.Error("a neighbour is shut out")
				}
				if !enter(h.other) {
					t.Error("others are shut out")
				}
			})
		}
	}
}

// TestRefusalCostsNoNeighbour: what one network is refused is not taken from those around it, and gets no bucket.
func TestRefusalCostsNoNeighbour(t *testing.T) {
	now := time.Unix(1000, 0)
	l := newNetworkLimiter(0.001, 2)
	count := func(remote string) (n int) {
		for range 10 {
			if l.allow("", network(remote), now) {
				n++
			}
		}
		return n
	}
	if a, b, c := count("[2001:db8:1:1::1]:1"), count("[2001:db8:1:2::1]:1"), count("[2001:db8:1:100::1]:1"); a != 2 || b != 1 || c != 1 {
		t.Errorf("two networks of a /56 had %d and %d, its neighbour %d; want 2, 1 and 1", a, b, c)
	}
	before := len(l[0].buckets)
	for i := range 1000 {
		l.allow("", network(fmt.Sprintf("[2001:db8:1:%x::1]:1", i)), now)
	}
	if after := len(l[0].buckets); after != before {
		t.Errorf("%d buckets for networks of a /48 that has nothing left, %d before", after, before)
	}
}

// TestDebtIsBounded: who sends much at once is not answered for long; his neighbours are, soon.
func TestDebtIsBounded(t *testing.T) {
	now := time.Unix(1000, 0)
	l := newNetworkLimiter(1, 10)
	l.spend("", network("[2001:db8::1]:1"), 1e6, now)
	now = now.Add(30 * time.Second)
	if l.allow("", network("[2001:db8::1]:1"), now) {
		t.Error("the debtor is answered")
	}
	if !l.allow("", network("[2001:db8:0:1::1]:1"), now) {
		t.Error("its neighbour pays for it")
	}
}

func TestAround(t *testing.T) {
	for remote, want := range map[string]string{
		"192.0.2.7:1":              "[192.0.2.7/32 192.0.2.0/24]",
		"[::ffff:192.0.2.7]:1":     "[192.0.2.7/32 192.0.2.0/24]",
		"[2001:db8:1:2345:6::1]:1": "[2001:db8:1:2345::/64 2001:db8:1:2300::/56 2001:db8:1::/48]",
		"[fe80::1%eth0]:1":         "[fe80::/64 fe80::/56 fe80::/48]",
		"pipe":                     "[invalid Prefix]",
	} {
		if got := fmt.Sprint(around(network(remote))); got != want {
			t.Errorf("around(%s) = %s, want %s", remote, got, want)
		}
	}
}

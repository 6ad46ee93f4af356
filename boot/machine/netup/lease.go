package netup

import (
	"context"
	"errors"
	"net/netip"
	"slices"
	"time"

	"github.com/sealboot/sealboot/measure/pause"
)

const (
	askAgain = 3 * time.Second // between two tries of a DHCP client
	maxDNS   = 3               // a resolver looks at no more
	maxV6    = 4               // addresses taken from one DHCPv6 answer

	shortestLease = 5 * time.Second // whatever a server says
	longestAsk    = time.Minute     // for more time, before the pause
)

// A lease is what a port is given, by whom, and for how long.
type lease struct {
	addresses []netip.Prefix
	gateways  []netip.Addr
	dns       []netip.Addr
	mtu       int
	routed    bool // the kernel has set addresses and routes itself, and ends them

	server string // as in "dhcp4 192.0.2.1"; empty for a static lease
	terms  terms
	// renew asks for more time: the server that gave the lease, or any of them.
	renew func(ctx context.Context, anyServer bool) (terms, error)
}

// terms are the times of a lease, counted from when it was given. The zero terms
// are those of a lease without end.
type terms struct{ renew, rebind, end time.Duration }

// infinite is how both DHCPs say "for ever".
const infinite = 0xffffffff * time.Second

// newTerms takes times as a server says them. Those that make no sense are
// replaced by what the RFCs take where a server says nothing.
func newTerms(renew, rebind, end time.Duration) terms {
	if end >= infinite {
		return terms{}
	}
	end = max(end, shortestLease)
	if renew < time.Second || renew >= rebind || rebind >= end {
		renew, rebind = end/2, end-end/8
	}
	return terms{renew, rebind, end}
}

// errTakenBack means that the server of a lease says that it is none any more.
var errTakenBack = errors.New("the server took it back")

// hold keeps a lease for as long as somebody gives it more time, and returns when
// it has ended.
func hold(ctx context.Context, l lease) error {
	for l.terms != (terms{}) {
		given := time.Now()
		if err := pause.For(ctx, l.terms.renew); err != nil {
			return err
		}
		next, err := extend(ctx, l, given)
		if err != nil {
			return err
		}
		l.terms = next
	}
	<-ctx.Done()
	return ctx.Err()
}

// extend asks for more time until there is some, or the lease has ended.
func extend(ctx context.Context, l lease, given time.Time) (terms, error) {
	ctx, cancel := context.WithDeadline(ctx, given.Add(l.terms.end))
	defer cancel()
	for {
		until, anyServer := given.Add(l.terms.rebind), false
		if !time.Now().Before(until) {
			until, anyServer = given.Add(l.terms.end), true
		}
		ask, done := context.WithTimeout(ctx, min(time.Until(until), longestAsk))
		next, err := l.renew(ask, anyServer)
		done()
		if err == nil || errors.Is(err, errTakenBack) {
			return next, err
		}
		// A quarter of what is left: often towards the end, never in a circle.
		if pause.For(ctx, max(time.Until(until)/4, time.Second)) != nil {
			return terms{}, errors.Join(errors.New("it was not renewed in time"), err)
		}
	}
}

// A shunned list names servers whose answers led nowhere. They are heard last:
// until then, the answer of any other server is taken.
type shunned struct {
	servers []string
	until   time.Time
}

// maxShunned bounds what a server that changes its name can make us keep.
const maxShunned = 16

// hears reports whether an answer of server may be taken now.
func (s *shunned) hears(server string) bool {
	return !slices.Contains(s.servers, server) || !time.Now().Before(s.until)
}

// and returns the list with one more server, which is not heard for a while.
func (s *shunned) and(server string) *shunned {
	until := time.Now().Add(askAgain)
	if until.Before(s.until) {
		until = s.until
	}
	return &shunned{withServer(s.servers, server), until}
}

// withServer returns the list with one more server, and without the oldest if it is full.
func withServer(servers []string, server string) []string {
	servers = append(slices.Clone(servers), server)
	return servers[max(0, len(servers)-maxShunned):]
}

package server

import (
	"cmp"
	"context"
	"fmt"
	"maps"
	"net/netip"
	"slices"
	"sync"
	"time"

	"github.com/sealboot/sealboot/attest/store"
)

// kind is what anyone can make attestd write in a device's name, with no more than the public key of its EK, or its
// hash. Each kind has a pace of its own, or the audit log would grow as fast as he likes; and none is used up by
// another, or a stranger's reports, which cost him nothing, would keep the denials of a device out of the log.
type kind string

const (
	// A device that is denied boots again and again: the first denials are worth a record each, then one a minute.
	denials kind = "denials"
	// Evidence that looks good is released to, and recorded, no matter who sent it; only the TPM can open what it gets.
	// A machine boots no more often than this.
	releases kind = "releases"
	// What is only shown: reports of loaders, which anyone can write, and challenges that are refused because of the
	// device's state.
	reports  kind = "reports"
	refusals kind = "refusals"
)

const (
	denialRate, denialBurst   = 1.0 / 60, 20
	releaseRate, releaseBurst = 1.0 / 5, 64
	// A device's pace in all networks together, in those of one: a stranger in one network does not use up what the
	// device has in another. One who has several wide ones does, since the log has to be bounded; but not where the
	// device has proven its last boot.
	allNetworks = 4
	// A report about attestation repeats the denial before it in fewer words.
	denialStands = 10 * time.Minute
)

// pace is that of one kind.
type pace struct {
	each *networkLimiter
	all  *limiter[string] // by device; nil where networks are all that counts
}

// newPace has that of one network, and how many times that of all together.
func newPace(rate, burst, networks float64) pace {
	return pace{newNetworkLimiter(rate, burst), newLimiter[string](networks*rate, networks*burst)}
}

// allow asks for all networks first, so that a device gets no more buckets than it has tokens, however many networks
// somebody has. What one network is refused is given back.
func (p pace) allow(device string, from netip.Prefix, now time.Time) bool {
	if p.all != nil && !p.all.allow(device, now) {
		return false
	}
	if p.each.allow(device, from, now) {
		return true
	}
	if p.all != nil {
		p.all.spend(device, -1, now)
	}
	return false
}

// quiet paces what is written of devices, and counts the rest.
type quiet struct {
	paces      map[kind]pace
	unrecorded tally[unrecorded]
}

type unrecorded struct {
	device string
	kind   kind
}

func newQuiet() *quiet {
	each := func() pace { return newPace(denialRate, denialBurst, allNetworks) }
	return &quiet{paces: map[kind]pace{
		denials: each(), reports: each(), refusals: each(),
		// A release is not only a record: the device itself must get it, whatever others do elsewhere.
		releases: {each: newNetworkLimiter(releaseRate, releaseBurst)},
	}}
}

// allow tells whether this one is to be written, and counts it if not. Where the device has proven its last boot, its pace
// is that of this network alone: neighbours in the same /24 or /48 use up what these may have, and who has many networks
// that of all.
func (q *quiet) allow(k kind, d store.Device, remote string, now time.Time) bool {
	from, p := network(remote), q.paces[k]
	allow := p.allow
	if from.IsValid() && from.String() == d.Confirmed.Network {
		allow = p.each.allowAlone
	}
	if allow(d.ID, from, now) {
		return true
	}
	q.unrecorded.add(unrecorded{d.ID, k}, count{1, now})
	return false
}

// maxTold is how many devices get a record of their own when it is told what was not recorded.
const maxTold = 32

// tell writes into the audit log what was not recorded and what no later record has told: at most maxTold devices by
// name, those with the most, and the others as one.
func (s *Server) tell(ctx context.Context) {
	left := s.quiet.unrecorded.drain()
	devices := map[string]int{}
	for u, c := range left {
		devices[u.device] += c.n
	}
	delete(devices, "") // those that there was no room to count by themselves
	named := slices.SortedFunc(maps.Keys(devices), func(a, b string) int {
		return cmp.Or(cmp.Compare(devices[b], devices[a]), cmp.Compare(a, b))
	})
	named = named[:min(len(named), maxTold)]
	for _, device := range slices.Concat(named, []string{""}) {
		s.tellOf(ctx, device, len(devices)-len(named), func(u unrecorded) bool {
			return u.device == device || device == "" && !slices.Contains(named, u.device)
		}, left)
	}
}

// tellOf writes one record, of those in left that are of it. What cannot be written is told the next time.
func (s *Server) tellOf(ctx context.Context, device string, others int, of func(unrecorded) bool, left map[unrecorded]count) {
	sum := map[kind]count{}
	for u, c := range left {
		if of(u) {
			k := sum[u.kind]
			k.add(c)
			sum[u.kind] = k
		}
	}
	if len(sum) == 0 {
		return
	}
	e := store.Event{Kind: "unrecorded", Device: device, Detail: map[string]string{}}
	if device == "" {
		e.Detail["devices"] = fmt.Sprint(others)
	}
	for k, c := range sum {
		e.Detail[string(k)] = c.String()
	}
	if err := s.Store.Note(ctx, e); err != nil {
		s.Log.Error("what was not recorded cannot be told", "device", device, "err", err)
		for u, c := range left {
			if of(u) {
				s.quiet.unrecorded.add(u, c)
			}
		}
	}
}

// count is how many were dropped, and since when.
type count struct {
	n     int
	since time.Time
}

func (c *count) add(o count) {
	if c.n == 0 || o.since.Before(c.since) {
		c.since = o.since
	}
	c.n += o.n
}

func (c count) String() string {
	return fmt.Sprintf("%d since %s", c.n, c.since.UTC().Format(time.RFC3339))
}

// tally counts what was dropped, by key. It has at most maxBuckets of them; the others count under the zero key.
type tally[K comparable] struct {
	mu sync.Mutex
	n  map[K]count
}

func (t *tally[K]) add(key K, c count) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.n == nil {
		t.n = map[K]count{}
	}
	sum, known := t.n[key]
	if !known && len(t.n) >= maxBuckets {
		var other K
		key, sum = other, t.n[other]
	}
	sum.add(c)
	t.n[key] = sum
}

// take returns the count of a key and forgets it.
func (t *tally[K]) take(key K) count {
	t.mu.Lock()
	defer t.mu.Unlock()
	c := t.n[key]
	delete(t.n, key)
	return c
}

// drain returns all counts and forgets them.
func (t *tally[K]) drain() map[K]count {
	t.mu.Lock()
	defer t.mu.Unlock()
	all := t.n
	t.n = nil
	return all
}

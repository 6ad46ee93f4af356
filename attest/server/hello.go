package server

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"net/netip"
	"slices"
	"sync"
	"time"

	"github.com/sealboot/sealboot/attest/store"
	"github.com/sealboot/sealboot/attest/wire"
)

// hello answers a device's nonce with the time and what concerns its rollback floor. It is signed, and
// tells nothing secret, so anyone may ask.
func (s *Server) hello(ctx context.Context, _ *http.Request, body []byte) ([]byte, error) {
	var m wire.HelloRequest
	if err := wire.Unmarshal(body, &m); err != nil {
		return nil, malformed(err)
	}
	if err := s.checkSite(m.Site); err != nil {
		return nil, err
	}
	answer := &wire.Hello{Version: wire.Version, Nonce: m.Nonce, Time: s.Now().Unix()}
	if m.EK != "" {
		if err := s.addFloor(ctx, answer, m.EK); err != nil {
			return nil, err
		}
	}
	return wire.Sign(s.Site.ServerKey, wire.DomainHello, wire.HashMessage(body), answer)
}

func (s *Server) addFloor(ctx context.Context, answer *wire.Hello, ek string) error {
	d, err := s.Store.Device(ctx, ek)
	if errors.Is(err, store.ErrNotFound) {
		return nil
	}
	if err != nil {
		return err
	}
	h, err := s.history(ctx, d.ID)
	if err != nil {
		return err
	}
	answer.HealthyVersion, answer.Orders = uint64(h.HealthyVersion), uint64(d.Orders)
	if d.RepairFloor != nil {
		floor := uint64(*d.RepairFloor)
		answer.RepairFloor = &floor
	}
	return nil
}

func (s *Server) checkSite(name string) error {
	if name != s.Site.Name {
		return refuse(http.StatusNotFound, wire.CodePolicy, "this attestd serves another site", fmt.Errorf("site %q", name))
	}
	return nil
}

// report notes what a device says of a failed boot. No one signed it; it is shown to people.
func (s *Server) report(ctx context.Context, r *http.Request, body []byte) ([]byte, error) {
	var m wire.Report
	if err := wire.Unmarshal(body, &m); err != nil {
		return nil, malformed(err)
	}
	if err := s.checkSite(m.Site); err != nil {
		return nil, err
	}
	reason := wire.Clean(m.Reason)
	s.Log.Info("device reports", "ek", m.EK, "stage", m.Stage, "reason", reason, "remote", r.RemoteAddr)
	if m.EK == "" {
		return []byte("{}"), nil
	}
	d, err := s.Store.Device(ctx, m.EK)
	if errors.Is(err, store.ErrNotFound) {
		s.strangers.add(stranger{s.Now(), m.EK, r.RemoteAddr, "report: " + reason})
		return []byte("{}"), nil
	}
	if err != nil {
		return nil, err
	}
	st := store.Status{Time: s.Now(), Phase: "boot", Verdict: "report", Stage: m.Stage, Reason: reason, Loader: wire.Clean(m.Loader)}
	if a := d.Attempt; m.Stage == stageAttest && a.Verdict == "deny" && st.Time.Sub(a.Time) < denialStands {
		return []byte("{}"), nil
	}
	return []byte("{}"), s.attempt(ctx, reports, d, st, r.RemoteAddr)
}

// stageAttest is what loaders call the stage in which they are denied.
const stageAttest = "attest"

// attempt shows what came in a device's name, at the pace of its kind.
func (s *Server) attempt(ctx context.Context, k kind, d store.Device, st store.Status, remote string) error {
	if !s.quiet.allow(k, d, remote, s.Now()) {
		return nil
	}
	return s.Store.SetAttempt(ctx, d.ID, st)
}

// strangers remembers the last devices that no one enrolled, so that an operator finds the hash of the
// box that has just been plugged in. It is bounded and in memory only.
type strangers struct {
	mu   sync.Mutex
	last []stranger // oldest first, one for each EK
}

type stranger struct {
	Time   time.Time
	EK     string
	Remote string
	Reason string
}

const maxStrangers = 50

func (s *strangers) add(n stranger) {
	s.mu.Lock()
	defer s.mu.Unlock()
	kept := make([]stranger, 0, len(s.last)+1)
	for _, o := range s.last {
		if o.EK != n.EK {
			kept = append(kept, o)
		}
	}
	if kept = append(kept, n); len(kept) > maxStrangers {
		i := oldestOfMost(kept)
		kept = slices.Delete(kept, i, i+1)
	}
	s.last = kept
}

// oldestOfMost returns the oldest of those from the customer who has the most on the list: one who invents keys does not
// push the box off it that was just plugged in elsewhere.
func oldestOfMost(list []stranger) int {
	count, first := map[netip.Prefix]int{}, map[netip.Prefix]int{}
	most := netip.Prefix{}
	for i, o := range list {
		networks := around(network(o.Remote))
		from := networks[len(networks)-1]
		if count[from]++; count[from] == 1 {
			first[from] = i
		}
		if count[from] > count[most] || count[from] == count[most] && first[from] < first[most] {
			most = from
		}
	}
	return first[most]
}

func (s *strangers) list() []stranger {
	s.mu.Lock()
	defer s.mu.Unlock()
	return append([]stranger(nil), s.last...)
}

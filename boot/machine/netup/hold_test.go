package netup

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"
)

// TestHold follows a lease of an hour, asked about at T1 and T2, through what
// servers may do. Time is not the machine's.
func TestHold(t *testing.T) {
	hour := newTerms(0, 0, time.Hour)
	if want := (terms{30 * time.Minute, 52*time.Minute + 30*time.Second, time.Hour}); hour != want {
		t.Fatalf("newTerms = %v, want %v", hour, want)
	}
	silent := errors.New("no server answered")
	for _, c := range []struct {
		name   string
		answer func(since time.Duration, anyServer bool) error
		renews terms  // what an answer gives
		want   string // error
		lasted time.Duration
		most   int // questions
	}{
		{"no server answers", func(time.Duration, bool) error { return silent }, terms{}, "not renewed in time", time.Hour, 100},
		{"taken back", func(time.Duration, bool) error { return errTakenBack }, terms{}, "took it back", 30 * time.Minute, 1},
		{"renewed for ever", func(time.Duration, bool) error { return nil }, terms{}, "deadline", 24 * time.Hour, 1},
		{"renewed again and again", func(time.Duration, bool) error { return nil }, hour, "deadline", 24 * time.Hour, 48},
		{"the first server is gone, another one knows the lease", func(_ time.Duration, anyServer bool) error {
			if anyServer {
				return nil
			}
			return silent
		}, hour, "deadline", 24 * time.Hour, 1000},
		{"renewed once", func(since time.Duration, _ bool) error {
			if since < time.Hour {
				return nil
			}
			return silent
		}, hour, "not renewed in time", 90 * time.Minute, 100},
	} {
		t.Run(c.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				start := time.Now()
				ctx, cancel := context.WithTimeout(t.Context(), 24*time.Hour)
				defer cancel()
				asked := 0
				err := hold(ctx, lease{terms: hour, renew: func(ctx context.Context, anyServer bool) (terms, error) {
					asked++
					err := c.answer(time.Since(start), anyServer)
					if errors.Is(err, silent) {
						<-ctx.Done() // as long as it is asked
					}
					return c.renews, err
				}})
				if lasted := time.Since(start); err == nil || !strings.Contains(err.Error(), c.want) || lasted != c.lasted || asked > c.most {
					t.Errorf("hold: %v after %v and %d questions; want %q after %v and at most %d", err, lasted, asked, c.want, c.lasted, c.most)
				}
			})
		})
	}
}

func TestNewTerms(t *testing.T) {
	for _, c := range []struct{ renew, rebind, end, wantRenew, wantRebind, wantEnd time.Duration }{
		{10, 20, 40, 10, 20, 40},
		{0, 0, 40, 20, 35, 40},
		{20, 10, 40, 20, 35, 40}, // in the wrong order
		{10, 50, 40, 20, 35, 40}, // after the end
		{10, 20, infinite / time.Second, 0, 0, 0},
	} {
		want := terms{c.wantRenew * time.Second, c.wantRebind * time.Second, c.wantEnd * time.Second}
		if got := newTerms(c.renew*time.Second, c.rebind*time.Second, c.end*time.Second); got != want {
			t.Errorf("newTerms(%v, %v, %v) = %v, want %v", c.renew, c.rebind, c.end, got, want)
		}
	}
	if got := newTerms(0, 0, 0); got.end != shortestLease || got.renew < time.Second {
		t.Errorf("a lease of no time: %v; asking must have a pace", got)
	}
	if got := newTerms(0, 0, infinite-1); got.rebind <= got.renew || got.end <= got.rebind {
		t.Errorf("the longest lease: %v", got)
	}
}

func TestShunned(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := &shunned{[]string{"a"}, time.Now().Add(10 * time.Second)}
		two := s.and("b")
		hears := func() string {
			return fmt.Sprint(s.hears("a"), s.hears("b"), two.hears("a"), two.hears("b"), two.hears("c"))
		}
		if d := cmp.Diff("false true false false true", hears()); d != "" {
			t.Errorf("at first (-want +got):\n%s", d)
		}
		time.Sleep(10 * time.Second)
		if d := cmp.Diff("true true true true true", hears()); d != "" {
			t.Errorf("when others had their time (-want +got):\n%s", d)
		}
		for i := range 100 {
			s = s.and(fmt.Sprint(i))
		}
		if len(s.servers) > maxShunned {
			t.Errorf("a server that changes its name fills the list: %d", len(s.servers))
		}
	})
}

// TestTurns has a network lead nowhere round after round, with the server that
// answers first in each.
func TestTurns(t *testing.T) {
	var last *keeper
	var got []string
	for _, server := range []string{"a", "a", "b", "b", "a", "a", "b", "", "b", "c"} {
		k := &keeper{port: &port{shun: new(shunned)}, got: &result{lease: lease{server: server}}}
		if last != nil {
			k.port.shun.servers, k.suspect = last.shun()
		}
		got = append(got, fmt.Sprintf("%s not %v", server, k.port.shun.servers))
		last = k
	}
	want := []string{"a not []", "a not []", "b not [a]", "b not [a]", "a not [a b]", "a not [a b]", "b not [a]", " not [a]", "b not [a]", "c not [a]"}
	if d := cmp.Diff(want, got); d != "" {
		t.Errorf("turns (-want +got):\n%s", d)
	}
}

// TestShunnedOverRounds: each network that leads nowhere twice is the work of a server that was not there before.
func TestShunnedOverRounds(t *testing.T) {
	p := &port{shun: new(shunned)}
	for i := range 10 * maxShunned {
		server := fmt.Sprint(i)
		p.shun.servers, _ = (&keeper{port: p, suspect: server, got: &result{lease: lease{server: server}}}).shun()
	}
	if got := p.shun.servers; len(got) > maxShunned || got[len(got)-1] != fmt.Sprint(10*maxShunned-1) {
		t.Errorf("after many rounds the list has %d servers, want at most %d and the last", len(got), maxShunned)
	}
}

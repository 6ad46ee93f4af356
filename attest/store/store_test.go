package store

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"database/sql"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
)

// start is the tests' clock.
var start = time.Date(2026, 3, 1, 12, 0, 0, 0, time.UTC)

// fixture opens the same database any number of times, as replicas and restarts do.
type fixture struct {
	dsn string
	key *ecdsa.PrivateKey
	now func() time.Time
}

func (f *fixture) open(t *testing.T, replica string) *Store {
	t.Helper()
	s, err := Open(t.Context(), Config{DSN: f.dsn, Replica: replica, Signer: f.key, Now: f.now})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { s.Close() })
	return s
}

// eachDatabase runs one test against SQLite and PostgreSQL.
func eachDatabase(t *testing.T, test func(t *testing.T, f *fixture)) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	now := func() time.Time { return start }
	t.Run("sqlite", func(t *testing.T) {
		test(t, &fixture{filepath.Join(t.TempDir(), "store.db"), key, now})
	})
	t.Run("postgres", func(t *testing.T) {
		test(t, &fixture{postgres(t), key, now})
	})
}

func id(c string) string { return strings.Repeat(c, 64) }

func enrol(t *testing.T, s *Store, ids ...string) Device {
	t.Helper()
	d := Device{ID: ids[0], EKs: ids, Label: "box", State: Enrolled, Tier: "hash"}
	if err := s.Enrol(t.Context(), d, Event{Kind: "enrol", Actor: "test"}); err != nil {
		t.Fatal(err)
	}
	return d
}

func release(cookie, id, device string) Decision {
	st := Status{Time: start, Phase: "boot", Image: "os"}
	return Decision{Cookie: cookie, ID: id, Device: device, Expires: start.Add(5 * time.Minute), Allow: true, Ack: "mac-" + id,
		Status: st, Effects: Effects{Status: st, Versions: map[string]int64{"image": 7}, AKName: "ak", AgentName: "agent"}}
}

func TestDevices(t *testing.T) {
	eachDatabase(t, func(t *testing.T, f *fixture) {
		s, ctx := f.open(t, "a"), t.Context()
		enrol(t, s, id("a"), id("b"))
		enrol(t, s, id("c"))
		for _, ek := range []string{id("a"), id("b")} {
			d, err := s.Device(ctx, ek)
			if err != nil {
				t.Fatal(err)
			}
			want := Device{ID: id("a"), EKs: []string{id("a"), id("b")}, Label: "box", State: Enrolled, Tier: "hash", EnrolledAt: start, MayFormat: true}
			if diff := cmp.Diff(want, d); diff != "" {
				t.Errorf("Device(%.4s): %s", ek, diff)
			}
		}
		if _, err := s.Device(ctx, id("d")); !errors.Is(err, ErrNotFound) {
			t.Errorf("unknown device: %v, want ErrNotFound", err)
		}
		// An endorsement key of another device cannot be taken over, and nothing of the attempt stays.
		err := s.Enrol(ctx, Device{ID: id("d"), EKs: []string{id("d"), id("b")}, State: Enrolled}, Event{})
		if !errors.Is(err, ErrExists) {
			t.Errorf("taking over a key: %v, want ErrExists", err)
		}
		if _, err := s.Device(ctx, id("d")); !errors.Is(err, ErrNotFound) {
			t.Errorf("after the refused enrolment: %v, want ErrNotFound", err)
		}
		if err := s.SetState(ctx, id("a"), Quarantined, Event{Kind: "state"}); err != nil {
			t.Fatal(err)
		}
		if err := s.SetState(ctx, id("d"), Quarantined, Event{}); !errors.Is(err, ErrNotFound) {
			t.Errorf("state of an unknown device: %v, want ErrNotFound", err)
		}
		if err := s.RepairFloor(ctx, id("c"), 3, Event{Kind: "floor"}); err != nil {
			t.Fatal(err)
		}
		all, err := s.Devices(ctx, "", 10)
		if err != nil || len(all) != 2 || all[0].State != Quarantined || *all[1].RepairFloor != 3 {
			t.Errorf("Devices = %+v, %v", all, err)
		}
		if rest, err := s.Devices(ctx, id("a"), 1); err != nil || len(rest) != 1 || rest[0].ID != id("c") {
			t.Errorf("second page = %+v, %v", rest, err)
		}
		n, err := s.Count(ctx)
		if diff := cmp.Diff(map[State]int64{Enrolled: 1, Quarantined: 1}, n); diff != "" || err != nil {
			t.Error(diff, err)
		}
	})
}

func TestEnrolRace(t *testing.T) {
	eachDatabase(t, func(t *testing.T, f *fixture) {
		stores := []*Store{f.open(t, "a"), f.open(t, "b")}
		var wins atomic.Int32
		var wg sync.WaitGroup
		for i := range 8 {
			wg.Go(func() {
				d := Device{ID: id("a"), EKs: []string{id("a")}, Label: fmt.Sprint(i), State: Enrolled}
				err := stores[i%2].Enrol(context.Background(), d, Event{Kind: "enrol"})
				if err == nil {
					wins.Add(1)
				} else if !errors.Is(err, ErrExists) {
					t.Error(err)
				}
			})
		}
		wg.Wait()
		if wins.Load() != 1 {
			t.Errorf("%d enrolments won, want 1", wins.Load())
		}
	})
}

func TestClaimOnce(t *testing.T) {
	eachDatabase(t, func(t *testing.T, f *fixture) {
		stores := []*Store{f.open(t, "a"), f.open(t, "b")}
		enrol(t, stores[0], id("a"))
		for round := range 5 {
			var wins atomic.Int32
			var wg sync.WaitGroup
			for i := range 8 {
				wg.Go(func() {
					d := release(fmt.Sprint("cookie", round), fmt.Sprintf("d%d-%d", round, i), id("a"))
					err := stores[i%2].Decide(context.Background(), d)
					if err == nil {
						wins.Add(1)
					} else if !errors.Is(err, ErrClaimed) {
						t.Error(err)
					}
				})
			}
			wg.Wait()
			if wins.Load() != 1 {
				t.Fatalf("round %d: %d claims won, want 1", round, wins.Load())
			}
		}
		// A loser leaves no audit record.
		var n int
		for _, s := range stores {
			r, err := s.Audit(t.Context(), s.replica, 0, 100)
			if err != nil {
				t.Fatal(err)
			}
			n += len(r)
		}
		if n != 1+5 {
			t.Errorf("%d audit records, want 6", n)
		}
		// A restart does not forget.
		if err := f.open(t, "c").Decide(t.Context(), release("cookie0", "later", id("a"))); !errors.Is(err, ErrClaimed) {
			t.Errorf("after a restart: %v, want ErrClaimed", err)
		}
	})
}

// TestDecideSeesQuarantine lets a device in while another replica is about to commit its quarantine, and after that.
// Nothing is written, so the challenge can be answered once the device is enrolled again.
func TestDecideSeesQuarantine(t *testing.T) {
	eachDatabase(t, func(t *testing.T, f *fixture) {
		a, b := f.open(t, "a"), f.open(t, "b")
		enrol(t, a, id("a"))
		decided := make(chan error, 1)
		err := b.update(t.Context(), func(tx *sql.Tx) error {
			_, err := tx.Exec("UPDATE devices SET state = 'quarantined'")
			go func() { decided <- a.Decide(context.Background(), release("cookie", "d1", id("a"))) }()
			return err
		})
		if err != nil {
			t.Fatal(err)
		}
		if err := <-decided; !errors.Is(err, ErrNotEnrolled) {
			t.Errorf("decided during the quarantine: %v, want ErrNotEnrolled", err)
		}
		if err := a.Decide(t.Context(), release("cookie", "d2", id("a"))); !errors.Is(err, ErrNotEnrolled) {
			t.Errorf("decided after it: %v, want ErrNotEnrolled", err)
		}
		if err := a.SetState(t.Context(), id("a"), Enrolled, Event{Kind: "state"}); err != nil {
			t.Fatal(err)
		}
		if err := a.Decide(t.Context(), release("cookie", "d3", id("a"))); err != nil {
			t.Error(err)
		}
	})
}

func TestConfirm(t *testing.T) {
	eachDatabase(t, func(t *testing.T, f *fixture) {
		s, ctx := f.open(t, "a"), t.Context()
		enrol(t, s, id("a"))
		if err := s.RepairFloor(ctx, id("a"), 4, Event{Kind: "floor"}); err != nil {
			t.Fatal(err)
		}
		boot := release("c1", "d1", id("a"))
		boot.Effects.Heard, boot.Effects.Released = 1, 1
		if err := s.Decide(ctx, boot); err != nil {
			t.Fatal(err)
		}
		// Nothing the device claimed counts before the acknowledgement.
		d, err := s.Device(ctx, id("a"))
		if err != nil || !d.MayFormat || d.AKName != "" || !d.Confirmed.Time.IsZero() || d.Attempt.Verdict != "allow" {
			t.Fatalf("before the acknowledgement: %+v, %v", d, err)
		}
		if err := s.Confirm(ctx, "d1", "wrong"); !errors.Is(err, ErrAck) {
			t.Errorf("wrong acknowledgement: %v, want ErrAck", err)
		}
		if err := s.Confirm(ctx, "d2", "mac-d1"); !errors.Is(err, ErrNotFound) {
			t.Errorf("unknown decision: %v, want ErrNotFound", err)
		}
		for range 2 { // the answer can be lost, so the second one must succeed too
			if err := s.Confirm(ctx, "d1", "mac-d1"); err != nil {
				t.Fatal(err)
			}
		}
		d, err = s.Device(ctx, id("a"))
		if err != nil || d.MayFormat || d.RepairFloor != nil || d.AKName != "ak" || d.AgentName != "agent" || d.Confirmed.Decision != "d1" {
			t.Errorf("after the acknowledgement: %+v, %v", d, err)
		}
		if err := s.AllowFormat(ctx, id("a"), Event{Kind: "format"}); err != nil {
			t.Fatal(err)
		}
		if d, err = s.Device(ctx, id("a")); err != nil || !d.MayFormat {
			t.Errorf("after AllowFormat: %+v, %v", d, err)
		}
		// A denial can never be acknowledged, not even by an empty MAC.
		deny := Decision{Cookie: "c3", ID: "d3", Device: id("a"), Expires: start}
		if err := s.Decide(ctx, deny); err != nil {
			t.Fatal(err)
		}
		if err := s.Confirm(ctx, "d3", ""); !errors.Is(err, ErrAck) {
			t.Errorf("acknowledged denial: %v, want ErrAck", err)
		}
	})
}

// TestLateConfirm holds an acknowledgement back: until after that of a later boot and an operator's orders, and for ever.
// Anyone who has the line can do so; it must not undo what came after.
func TestLateConfirm(t *testing.T) {
	eachDatabase(t, func(t *testing.T, f *fixture) {
		now := start
		f.now = func() time.Time { return now }
		s, ctx := f.open(t, "a"), t.Context()
		enrol(t, s, id("a"))
		old, next, last := release("c1", "d1", id("a")), release("c2", "d2", id("a")), release("c3", "d3", id("a"))
		old.Effects.AKName, old.Effects.Versions = "old ak", map[string]int64{"image": 6, "floor/x": 1}
		next.Expires = next.Expires.Add(time.Minute)
		for _, d := range []Decision{old, next, last} {
			if err := s.Decide(ctx, d); err != nil {
				t.Fatal(err)
			}
		}
		if err := s.Confirm(ctx, "d2", "mac-d2"); err != nil {
			t.Fatal(err)
		}
		if err := errors.Join(s.AllowFormat(ctx, id("a"), Event{}), s.RepairFloor(ctx, id("a"), 3, Event{})); err != nil {
			t.Fatal(err)
		}
		if err := s.Confirm(ctx, "d1", "mac-d1"); err != nil {
			t.Fatal(err)
		}
		d, err := s.Device(ctx, id("a"))
		if err != nil || d.Confirmed.Decision != "d2" || d.AKName != "ak" || !d.MayFormat || d.RepairFloor == nil {
			t.Errorf("after the earlier boot's acknowledgement: %+v, %v; want what the later one and the operator left", d, err)
		}
		if v, err := s.Versions(ctx, id("a")); err != nil || v["image"] != 7 || v["floor/x"] != 1 {
			t.Errorf("versions %v, %v; want the highest of both", v, err)
		}
		now = start.Add(time.Hour)
		if err := s.Confirm(ctx, "d3", "mac-d3"); !errors.Is(err, ErrAck) {
			t.Errorf("an hour late: %v, want ErrAck", err)
		}
	})
}

// TestConfirmsTogether acknowledges an earlier boot while another replica is about to commit a later one's.
func TestConfirmsTogether(t *testing.T) {
	eachDatabase(t, func(t *testing.T, f *fixture) {
		a, b, ctx := f.open(t, "a"), f.open(t, "b"), t.Context()
		enrol(t, a, id("a"))
		old, next := release("c1", "d1", id("a")), release("c2", "d2", id("a"))
		next.Expires = next.Expires.Add(time.Minute)
		if err := errors.Join(a.Decide(ctx, old), a.Decide(ctx, next)); err != nil {
			t.Fatal(err)
		}
		confirmed := make(chan error, 1)
		err := b.update(ctx, func(tx *sql.Tx) error {
			if _, err := tx.Exec("UPDATE decisions SET acked = 1 WHERE id = 'd2'"); err != nil {
				return err
			}
			err := b.applyEffects(ctx, tx, id("a"), "d2", millis(next.Expires), next.Effects)
			go func() { confirmed <- a.Confirm(context.Background(), "d1", "mac-d1") }()
			for i := 0; i < 400 && isPostgres(f.dsn); i++ { // until it waits for us
				var waiting int
				if werr := b.db.QueryRow("SELECT COUNT(*) FROM pg_locks WHERE NOT granted").Scan(&waiting); werr != nil || waiting > 0 {
					return errors.Join(err, werr)
				}
				time.Sleep(5 * time.Millisecond)
			}
			return err
		})
		if err := errors.Join(err, <-confirmed); err != nil {
			t.Fatal(err)
		}
		if d, err := a.Device(ctx, id("a")); err != nil || d.Confirmed.Decision != "d2" {
			t.Errorf("the last boot is %q, %v; want d2", d.Confirmed.Decision, err)
		}
	})
}

func TestVersionsOnlyRise(t *testing.T) {
	eachDatabase(t, func(t *testing.T, f *fixture) {
		s, ctx := f.open(t, "a"), t.Context()
		enrol(t, s, id("a"))
		for _, v := range []map[string]int64{{"image": 5, "root": 1}, {"image": 3, "root": 2}, {"image": 4}} {
			if err := s.RaiseVersions(ctx, id("a"), v, Event{Kind: "health"}); err != nil {
				t.Fatal(err)
			}
		}
		got, err := s.Versions(ctx, id("a"))
		if diff := cmp.Diff(map[string]int64{"image": 5, "root": 2}, got); diff != "" || err != nil {
			t.Error(diff, err)
		}
	})
}

func TestPrune(t *testing.T) {
	eachDatabase(t, func(t *testing.T, f *fixture) {
		now := start
		f.now = func() time.Time { return now }
		s, ctx := f.open(t, "a"), t.Context()
		enrol(t, s, id("a"))
		if err := s.Decide(ctx, release("c1", "d1", id("a"))); err != nil {
			t.Fatal(err)
		}
		if n, err := s.Prune(ctx); n != 0 || err != nil {
			t.Errorf("pruned %d, %v while the challenge lives", n, err)
		}
		now = start.Add(2 * time.Hour)
		if n, err := s.Prune(ctx); n != 1 || err != nil {
			t.Errorf("pruned %d, %v, want 1", n, err)
		}
	})
}

func TestDocuments(t *testing.T) {
	eachDatabase(t, func(t *testing.T, f *fixture) {
		s, ctx := f.open(t, "a"), t.Context()
		g0, err := s.Generation(ctx)
		if err != nil {
			t.Fatal(err)
		}
		doc := Document{Kind: "image", Name: "os-1", Body: []byte(`{"a":  1}`)}
		if err := s.Add(ctx, doc, Event{Kind: "policy"}); err != nil {
			t.Fatal(err)
		}
		if err := s.Add(ctx, doc, Event{Kind: "policy"}); !errors.Is(err, ErrExists) {
			t.Errorf("second Add: %v, want ErrExists", err)
		}
		if err := s.Retire(ctx, "image", "os-1", Event{Kind: "policy"}); err != nil {
			t.Fatal(err)
		}
		if err := s.Retire(ctx, "image", "os-1", Event{Kind: "policy"}); !errors.Is(err, ErrNotFound) {
			t.Errorf("second Retire: %v, want ErrNotFound", err)
		}
		if err := s.Add(ctx, doc, Event{Kind: "policy"}); !errors.Is(err, ErrExists) {
			t.Errorf("name used again after retirement: %v, want ErrExists", err)
		}
		doc.Added, doc.Retired = start, start
		all, err := s.Documents(ctx)
		if diff := cmp.Diff([]Document{doc}, all); diff != "" || err != nil {
			t.Error(diff, err)
		}
		if g1, err := s.Generation(ctx); err != nil || g1 != g0+2 {
			t.Errorf("Generation = %d, %v, want %d", g1, err, g0+2)
		}
	})
}

func TestJoin(t *testing.T) {
	eachDatabase(t, func(t *testing.T, f *fixture) {
		now := start
		f.now = func() time.Time { return now }
		s, ctx := f.open(t, "a"), t.Context()
		if err := s.AddToken(ctx, Token{Name: "t", Secret: []byte("secret"), Expires: start.Add(time.Hour), Uses: 2}, Event{Kind: "token"}); err != nil {
			t.Fatal(err)
		}
		join := func(c string) error {
			return s.Join(ctx, "t", Device{ID: id(c), EKs: []string{id(c)}}, Event{Kind: "enrol"})
		}
		if err := join("a"); err != nil {
			t.Fatal(err)
		}
		// A known device costs no use of the token.
		if err := join("a"); !errors.Is(err, ErrExists) {
			t.Errorf("joined twice: %v, want ErrExists", err)
		}
		if err := join("b"); err != nil {
			t.Fatal(err)
		}
		if err := join("c"); !errors.Is(err, ErrNotFound) {
			t.Errorf("used-up token: %v, want ErrNotFound", err)
		}
		if d, err := s.Device(ctx, id("b")); err != nil || d.State != Pending || d.Tier != "token" {
			t.Errorf("joined device: %+v, %v", d, err)
		}
		if err := s.AddToken(ctx, Token{Name: "u", Expires: start.Add(time.Hour), Uses: 1}, Event{Kind: "token"}); err != nil {
			t.Fatal(err)
		}
		if ts, err := s.Tokens(ctx); err != nil || len(ts) != 1 || ts[0].Name != "u" {
			t.Errorf("Tokens = %+v, %v", ts, err)
		}
		now = start.Add(2 * time.Hour)
		if err := s.Join(ctx, "u", Device{ID: id("c"), EKs: []string{id("c")}}, Event{}); !errors.Is(err, ErrNotFound) {
			t.Errorf("expired token: %v, want ErrNotFound", err)
		}
	})
}

func TestOpenRefuses(t *testing.T) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	path := filepath.Join(t.TempDir(), "store.db")
	if err := os.WriteFile(path, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.Chmod(path, 0o644); err != nil {
		t.Fatal(err)
	}
	if _, err := Open(t.Context(), Config{DSN: path, Replica: "a", Signer: key}); err == nil || !strings.Contains(err.Error(), "0644") {
		t.Errorf("readable store: %v", err)
	}
	if _, err := Open(t.Context(), Config{DSN: path, Replica: "a"}); err == nil {
		t.Error("opened without a signer")
	}
}

// TestWritersDoNotWaitForEver has one that never ends.
func TestWritersDoNotWaitForEver(t *testing.T) {
	eachDatabase(t, func(t *testing.T, f *fixture) {
		s := f.open(t, "a")
		busy, end := make(chan struct{}), make(chan struct{})
		var running sync.WaitGroup
		running.Go(func() {
			if err := s.update(t.Context(), func(*sql.Tx) error { close(busy); <-end; return nil }); err != nil {
				t.Error(err)
			}
		})
		<-busy
		ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
		defer cancel()
		if err := s.Note(ctx, Event{Kind: "state"}); !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("beside another writer: %v, want %v", err, context.DeadlineExceeded)
		}
		close(end)
		running.Wait()
		if err := s.Note(t.Context(), Event{Kind: "state"}); err != nil {
			t.Errorf("after it: %v", err)
		}
	})
}

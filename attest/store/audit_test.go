package store

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"errors"
	"slices"
	"testing"
	"time"
)

// verifyChain follows a whole exported chain, as an auditor would.
func verifyChain(records []Record, h Head, key *ecdsa.PublicKey) error {
	var v Verifier
	for _, r := range records {
		if err := v.Add(r); err != nil {
			return err
		}
	}
	if err := v.At(h); err != nil {
		return err
	}
	return h.Verify(key)
}

func TestAuditChain(t *testing.T) {
	eachDatabase(t, func(t *testing.T, f *fixture) {
		s, ctx := f.open(t, "a"), t.Context()
		enrol(t, s, id("a"))
		for i := range 5 {
			c := string(rune('0' + i))
			if err := s.Decide(ctx, release("c"+c, "d"+c, id("a"))); err != nil {
				t.Fatal(err)
			}
		}
		records, err := s.Audit(ctx, "a", 0, 100)
		if err != nil {
			t.Fatal(err)
		}
		heads, err := s.Heads(ctx)
		if err != nil || len(heads) != 1 {
			t.Fatalf("Heads = %v, %v", heads, err)
		}
		h := heads[0]
		if err := verifyChain(records, h, &f.key.PublicKey); err != nil {
			t.Fatal(err)
		}
		if at, e, err := records[1].Event(); err != nil || !at.Equal(start) || e.Verdict != "allow" || e.Decision != "d0" {
			t.Errorf("Event = %v %+v, %v", at, e, err)
		}
		other, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
		if err != nil {
			t.Fatal(err)
		}
		moved := h
		moved.Replica = "b"
		change := func(f func(r []Record) []Record) []Record { return f(slices.Clone(records)) }
		for name, err := range map[string]error{
			"changed": verifyChain(change(func(r []Record) []Record { r[2].Body = []byte(`{}`); return r }), h, &f.key.PublicKey),
			"removed": verifyChain(change(func(r []Record) []Record { return slices.Delete(r, 2, 3) }), h, &f.key.PublicKey),
			"cut":     verifyChain(records[:5], h, &f.key.PublicKey),
			"swapped": verifyChain(change(func(r []Record) []Record { r[2], r[3] = r[3], r[2]; return r }), h, &f.key.PublicKey),
			"rehashed": verifyChain(change(func(r []Record) []Record {
				r[5].Body = []byte(`{}`)
				r[5].Hash = recordHash("a", 6, r[5].Prev, r[5].Body)
				return r
			}), h, &f.key.PublicKey),
			"other key":  verifyChain(records, h, &other.PublicKey),
			"other name": verifyChain(records, moved, &f.key.PublicKey),
		} {
			if !errors.Is(err, ErrChain) {
				t.Errorf("%s: %v, want ErrChain", name, err)
			}
		}
	})
}

// TestVerifyAudit changes the log behind the store's back, as anyone who can write to the database could.
func TestVerifyAudit(t *testing.T) {
	eachDatabase(t, func(t *testing.T, f *fixture) {
		s, ctx := f.open(t, "a"), t.Context()
		note := func(s *Store) {
			t.Helper()
			if err := s.Note(ctx, Event{Kind: "state"}); err != nil {
				t.Fatal(err)
			}
		}
		verify := func(replica string, kept ...Head) (Head, error) {
			return s.VerifyAudit(ctx, replica, &f.key.PublicKey, kept...)
		}
		change := func(statement string, args ...any) {
			t.Helper()
			if _, err := s.db.ExecContext(ctx, statement, args...); err != nil {
				t.Fatal(err)
			}
		}
		for range auditPage + 2 {
			note(s)
		}
		note(f.open(t, "b"))
		old, err := verify("a")
		if err != nil || old.Seq != auditPage+2 || !old.Time.Equal(start) {
			t.Fatalf("whole: %+v, %v", old, err)
		}
		note(s)
		if h, err := verify("a", old); err != nil || h.Seq != old.Seq+1 {
			t.Fatalf("continued: %+v, %v", h, err)
		}
		forged := old
		forged.Time = forged.Time.Add(time.Hour)
		for name, failed := range map[string]func() (Head, error){
			"nobody's chain":    func() (Head, error) { return verify("c") },
			"another's head":    func() (Head, error) { return verify("b", old) },
			"a forged old head": func() (Head, error) { return verify("a", forged) },
			"a record removed": func() (Head, error) {
				change("DELETE FROM audit WHERE replica = 'b'")
				return verify("b")
			},
			"cut, and continued by the key's holder": func() (Head, error) {
				change("DELETE FROM audit WHERE replica = 'a' AND seq > 10")
				r, err := s.Audit(ctx, "a", 9, 1)
				if err != nil {
					t.Fatal(err)
				}
				change("UPDATE heads SET seq = 10, hash = $1 WHERE replica = 'a'", r[0].Hash)
				note(s)
				if h, err := verify("a"); err != nil || h.Seq != 11 {
					t.Fatalf("cut, with no older head: %+v, %v", h, err)
				}
				return verify("a", old)
			},
		} {
			if _, err := failed(); !errors.Is(err, ErrChain) {
				t.Errorf("%s: %v, want ErrChain", name, err)
			}
		}
	})
}

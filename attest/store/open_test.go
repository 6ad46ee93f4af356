package store

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"database/sql"
	"errors"
	"path/filepath"
	"sync"
	"testing"
	"time"
)

// TestOpenTogether makes a store as a site's first two programs do, attestd and
// a command of the operator's, at the same moment.
func TestOpenTogether(t *testing.T) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	for range 20 {
		path := filepath.Join(t.TempDir(), "store.db")
		var all sync.WaitGroup
		for range 4 {
			all.Go(func() {
				s, err := Open(t.Context(), Config{DSN: path, Replica: "a", Signer: key})
				if err != nil {
					t.Error(err)
					return
				}
				if err := s.Close(); err != nil {
					t.Error(err)
				}
			})
		}
		all.Wait()
	}
}

// TestOpenWaits has another program write to the new file, which keeps it from
// getting its write-ahead log.
func TestOpenWaits(t *testing.T) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	path := filepath.Join(t.TempDir(), "store.db")
	if err := createPrivate(path); err != nil {
		t.Fatal(err)
	}
	db, err := sql.Open("sqlite", "file:"+path+"?_txlock=immediate")
	if err != nil {
		t.Fatal(err)
	}
	defer db.Close()
	writer, err := db.Begin()
	if err != nil {
		t.Fatal(err)
	}
	defer writer.Rollback() //nolint:errcheck // it may be over
	ctx, cancel := context.WithTimeout(t.Context(), 100*time.Millisecond)
	defer cancel()
	c := Config{DSN: path, Replica: "a", Signer: key}
	if _, err := Open(ctx, c); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("while another writes: %v, want to wait for as long as we may", err)
	}
	if err := writer.Rollback(); err != nil {
		t.Fatal(err)
	}
	s, err := Open(t.Context(), c)
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	var mode string
	if err := s.db.QueryRow("PRAGMA journal_mode").Scan(&mode); err != nil || mode != "wal" {
		t.Errorf("the journal is %q: %v", mode, err)
	}
}

// TestReplicasStartTogether has several replicas start at once: on a new database, and on one of the first schema, as
// after an update of all of them.
func TestReplicasStartTogether(t *testing.T) {
	eachDatabase(t, func(t *testing.T, f *fixture) {
		together := func(what string) {
			var all sync.WaitGroup
			for range 6 {
				all.Go(func() {
					s, err := Open(t.Context(), Config{DSN: f.dsn, Replica: "a", Signer: f.key, Now: f.now})
					if err != nil {
						t.Errorf("%s: %v", what, err)
						return
					}
					if err := s.Close(); err != nil {
						t.Error(err)
					}
				})
			}
			all.Wait()
		}
		together("a new database")
		for range 3 {
			s := f.open(t, "a")
			for _, q := range []string{
				"ALTER TABLE devices DROP COLUMN orders", "ALTER TABLE devices DROP COLUMN format_order",
				"ALTER TABLE devices DROP COLUMN repair_order", "DROP TABLE denials", "UPDATE counters SET value = 1 WHERE name = 'schema'",
			} {
				if _, err := s.db.ExecContext(t.Context(), q); err != nil {
					t.Fatal(err)
				}
			}
			together("a database of version 1")
		}
	})
}

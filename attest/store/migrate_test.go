package store

import (
	"crypto/sha256"
	"database/sql"
	"encoding/hex"
	"errors"
	"fmt"
	"io/fs"
	"slices"
	"strings"
	"testing"
	"testing/fstest"

	"github.com/google/go-cmp/cmp"
)

// released are the migrations that databases have, by their digests.
var released = []string{
	"0001_first.sql 35fce9ae2a5fd2fc839dca5dddcad6393c959173adbd020ca36d8733cb595278",
	"0002_orders.sql b5308958144f35723f1c4dc3217c6401b33e2d6bf81fb23282b7ed7b9f090347",
}

// TestMigrationsStay: a released migration never changes. A new table or column is a new file, and a new line here.
func TestMigrationsStay(t *testing.T) {
	var got []string
	err := fs.WalkDir(migrations, "migrations", func(path string, e fs.DirEntry, err error) error {
		if err != nil || e.IsDir() {
			return err
		}
		text, err := fs.ReadFile(migrations, path)
		sum := sha256.Sum256(text)
		got = append(got, e.Name()+" "+hex.EncodeToString(sum[:]))
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(released, got); diff != "" {
		t.Errorf("migrations (-released +there):\n%s", diff)
	}
}

func TestMigrationNames(t *testing.T) {
	for _, name := range []string{"0002_x.sql", "one.sql", "0000_x.sql"} {
		if _, err := statements(fstest.MapFS{"migrations/" + name: {Data: []byte("SELECT 1;\n")}}); err == nil {
			t.Errorf("%s alone was taken", name)
		}
	}
}

// downgrade makes of today's tables, with what is in them, those of an earlier version.
var downgrade = map[int][]string{
	1: {
		"ALTER TABLE devices DROP COLUMN orders", "ALTER TABLE devices DROP COLUMN format_order",
		"ALTER TABLE devices DROP COLUMN repair_order", "DROP TABLE denials",
	},
}

// tables are the columns of all tables, as both databases show them. It takes a connection of its own: one that has
// seen a table changed refuses to show it.
func tables(t *testing.T, f *fixture) (columns []string) {
	t.Helper()
	db := rawOpen(t, f)
	defer db.Close()
	var names []string
	for _, name := range []string{"devices", "endorsement_keys", "versions", "decisions", "documents", "tokens", "audit", "heads", "counters", "denials"} {
		rows, err := db.QueryContext(t.Context(), "SELECT * FROM "+name+" LIMIT 0")
		if err != nil {
			continue // there is none
		}
		if names, err = rows.Columns(); err != nil {
			t.Fatal(err)
		}
		if err := rows.Close(); err != nil {
			t.Fatal(err)
		}
		slices.Sort(names) // a column that was added is the last one
		columns = append(columns, name+": "+strings.Join(names, " "))
	}
	return columns
}

// migrateTo makes new tables of a version.
func migrateTo(t *testing.T, f *fixture, version int) {
	t.Helper()
	db := rawOpen(t, f)
	all, err := statements(migrations)
	if err != nil {
		t.Fatal(err)
	}
	queries := append([]string{"CREATE TABLE counters (name TEXT PRIMARY KEY, value BIGINT NOT NULL)"}, slices.Concat(all[:version]...)...)
	queries = append(queries, fmt.Sprintf("INSERT INTO counters (name, value) VALUES ('schema', %d)", version))
	for _, q := range queries {
		if _, err := db.ExecContext(t.Context(), q); err != nil {
			t.Fatal(err)
		}
	}
}

// rawOpen opens a database without a look at its tables.
func rawOpen(t *testing.T, f *fixture) *sql.DB {
	t.Helper()
	open := openSQLite
	if isPostgres(f.dsn) {
		open = openPostgres
	}
	db, err := open(f.dsn)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { db.Close() })
	return db
}

// contents is what the store says of everything in it.
func contents(t *testing.T, s *Store, f *fixture) (all []any) {
	t.Helper()
	ctx := t.Context()
	devices, err := s.Devices(ctx, "", 10)
	all = append(all, devices)
	for _, d := range devices {
		versions, verr := s.Versions(ctx, d.ID)
		all, err = append(all, versions), errors.Join(err, verr)
	}
	documents, derr := s.Documents(ctx)
	tokens, terr := s.Tokens(ctx)
	records, aerr := s.Audit(ctx, "a", 0, 100)
	_, verr := s.VerifyAudit(ctx, "a", &f.key.PublicKey)
	if err := errors.Join(err, derr, terr, aerr, verr); err != nil {
		t.Fatal(err)
	}
	return append(all, documents, tokens, records)
}

// fill gives a store something of everything.
func fill(t *testing.T, s *Store) {
	t.Helper()
	ctx := t.Context()
	enrol(t, s, id("a"), id("b"))
	enrol(t, s, id("c"))
	if err := errors.Join(
		s.Add(ctx, Document{Kind: "image", Name: "os", Body: []byte(`{}`)}, Event{Kind: "policy"}),
		s.AddToken(ctx, Token{Name: "batch", Expires: start.AddDate(0, 1, 0), Uses: 3}, Event{Kind: "token"}),
		s.Decide(ctx, release("c1", "d1", id("a"))), s.Confirm(ctx, "d1", "mac-d1"),
		s.SetPolicy(ctx, id("c"), DevicePolicy{Images: []string{"os"}}, Event{Kind: "device-policy"}),
	); err != nil {
		t.Fatal(err)
	}
}

// TestUpgradeKeeps upgrades databases of every earlier version, with data: the tables are then those of a new database,
// and what is in them is as it was.
func TestUpgradeKeeps(t *testing.T) {
	all, err := statements(migrations)
	if err != nil {
		t.Fatal(err)
	}
	eachDatabase(t, func(t *testing.T, f *fixture) {
		s := f.open(t, "a")
		fill(t, s)
		newest, want := tables(t, f), contents(t, s, f)
		for v := 1; v < len(all); v++ {
			queries, ok := downgrade[v]
			if !ok {
				t.Fatalf("no way back to version %d: the upgrade from there is not tested", v)
			}
			for _, q := range append(queries, fmt.Sprintf("UPDATE counters SET value = %d WHERE name = 'schema'", v)) {
				if _, err := s.db.ExecContext(t.Context(), q); err != nil {
					t.Fatalf("%s: %v", q, err)
				}
			}
			downgraded := tables(t, f)
			if err := s.Close(); err != nil {
				t.Fatal(err)
			}
			s = f.open(t, "a")
			if diff := cmp.Diff(newest, tables(t, f)); diff != "" {
				t.Errorf("tables of version %d after the upgrade (-want +got):\n%s", v, diff)
			}
			if diff := cmp.Diff(want, contents(t, s, f)); diff != "" {
				t.Errorf("what a database of version %d had, after the upgrade (-want +got):\n%s", v, diff)
			}
			other := &fixture{f.dsn + ".old", f.key, f.now}
			if isPostgres(f.dsn) {
				other.dsn = postgres(t)
			}
			migrateTo(t, other, v)
			if diff := cmp.Diff(tables(t, other), downgraded); diff != "" {
				t.Errorf("tables of version %d (-want +made for this test):\n%s", v, diff)
			}
		}
	})
}

// TestNewerDatabase: an older program does not touch what a newer one has upgraded.
func TestNewerDatabase(t *testing.T) {
	eachDatabase(t, func(t *testing.T, f *fixture) {
		s := f.open(t, "a")
		if _, err := s.db.ExecContext(t.Context(), "UPDATE counters SET value = value + 1 WHERE name = 'schema'"); err != nil {
			t.Fatal(err)
		}
		_, err := Open(t.Context(), Config{DSN: f.dsn, Replica: "a", Signer: f.key, Now: f.now})
		var newer *VersionError
		if !errors.Is(err, ErrNewer) || !errors.As(err, &newer) || newer.Have != newer.Known+1 {
			t.Fatalf("Open: %v, want ErrNewer", err)
		}
		var still int
		if err := s.db.QueryRowContext(t.Context(), "SELECT value FROM counters WHERE name = 'schema'").Scan(&still); err != nil || still != newer.Have {
			t.Errorf("its version is %d now, %v", still, err)
		}
	})
}

package store

import (
	"context"
	"database/sql"
	"embed"
	"errors"
	"fmt"
	"io/fs"
	"strconv"
	"strings"
)

// A migration brings the tables from the version before to its own. It is a file of
// statements that both dialects understand, each ending with ";" at the end of a line,
// and its number is at the beginning of its name. One that was released never changes:
// databases have it. TestMigrationsStay holds that.
//
//go:embed migrations/*.sql
var migrations embed.FS

// ErrNewer says that a newer program has upgraded the database. It stays as it is: an
// older program must not write what it does not understand.
var ErrNewer = errors.New("the database is of a newer attestd")

// A VersionError is [ErrNewer] with the numbers.
type VersionError struct{ Have, Known int }

func (e *VersionError) Error() string {
	return fmt.Sprintf("%v: its tables are of version %d, and version %d is the last that is known here: start the newer program", ErrNewer, e.Have, e.Known)
}

// Is matches [ErrNewer].
func (e *VersionError) Is(target error) bool { return target == ErrNewer }

// statements returns those of each migration, the first at index 0.
func statements(files fs.FS) ([][]string, error) {
	names, err := fs.Glob(files, "migrations/*.sql") // in the order of their names
	if err != nil {
		return nil, err
	}
	var all [][]string
	for i, name := range names {
		number, _, _ := strings.Cut(strings.TrimPrefix(name, "migrations/"), "_")
		if n, err := strconv.Atoi(number); err != nil || n != i+1 {
			return nil, fmt.Errorf("%s: want a name that begins with %04d_", name, i+1)
		}
		text, err := fs.ReadFile(files, name)
		if err != nil {
			return nil, err
		}
		var one []string
		for s := range strings.SplitSeq(string(text), ";\n") {
			if s = strings.TrimSpace(s); s != "" {
				one = append(one, s)
			}
		}
		all = append(all, one)
	}
	return all, nil
}

// migrationLock is the number of the lock, in a database of PostgreSQL, of the program that makes or upgrades the tables.
const migrationLock = 0x5ea1b007

// migrate brings the tables to the version of this program, all in one transaction.
func (s *Store) migrate(ctx context.Context, driver string) error {
	all, err := statements(migrations)
	if err != nil {
		return err
	}
	return s.update(ctx, func(tx *sql.Tx) error {
		if driver != driverSQLite {
			// Of two replicas that start at once, PostgreSQL fails one in CREATE TABLE IF NOT EXISTS. SQLite has one writer.
			if _, err := tx.ExecContext(ctx, "SELECT pg_advisory_xact_lock($1)", migrationLock); err != nil {
				return fmt.Errorf("wait for other programs that start: %w", err)
			}
		}
		have, err := version(ctx, tx)
		if err != nil {
			return err
		}
		if have > len(all) {
			return &VersionError{have, len(all)}
		}
		for i, migration := range all[have:] {
			for _, q := range migration {
				if _, err := tx.ExecContext(ctx, q); err != nil {
					return fmt.Errorf("bring the tables to version %d: %w", have+i+1, err)
				}
			}
		}
		_, err = tx.ExecContext(ctx, "UPDATE counters SET value = $1 WHERE name = 'schema'", len(all))
		return err
	})
}

// version is that of the tables, 0 if there are none.
func version(ctx context.Context, tx *sql.Tx) (have int, err error) {
	for _, q := range []string{
		"CREATE TABLE IF NOT EXISTS counters (name TEXT PRIMARY KEY, value BIGINT NOT NULL)",
		"INSERT INTO counters (name, value) VALUES ('schema', 0) ON CONFLICT DO NOTHING",
	} {
		if _, err := tx.ExecContext(ctx, q); err != nil {
			return 0, err
		}
	}
	if err := tx.QueryRowContext(ctx, "SELECT value FROM counters WHERE name = 'schema'").Scan(&have); err != nil {
		return 0, err
	}
	if have < 0 {
		return 0, fmt.Errorf("its tables are of version %d, which never was", have)
	}
	return have, nil
}

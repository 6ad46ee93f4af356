// Package store keeps what attestd must not forget: the devices of a site, which challenges were
// already answered, the highest versions each device has shown, the reference values it is judged
// by, and the audit log.
//
// It promises three things. A challenge is claimed in the same transaction that writes its audit
// record, so a secret can only leave the server after its record is durable, and of two replicas
// that race for one challenge exactly one wins. Every change of a device or a document carries an
// audit record in the same transaction. What a device claims about itself becomes part of its
// record only in [Store.Confirm], when the device has proven that it could read the answer.
//
// One SQL text serves SQLite (one server, the default) and PostgreSQL (several replicas sharing one
// database). Store holds no key but the audit signer it was given.
package store

import (
	"context"
	"crypto"
	"database/sql"
	"errors"
	"fmt"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"time"

	"modernc.org/sqlite" // and its driver
	sqlite3 "modernc.org/sqlite/lib"
)

var (
	// ErrNotFound says that no such device, decision, token or document is stored.
	ErrNotFound = errors.New("not found in the store")
	// ErrExists says that a device, document or token of that name is stored already.
	ErrExists = errors.New("already in the store")
	// ErrClaimed says that the challenge was answered before: by this server, before a
	// restart, or by another replica.
	ErrClaimed = errors.New("challenge was already used")
	// ErrEnrolled says that a device is still let in, and so not removed.
	ErrEnrolled = errors.New("device is enrolled")
	// ErrNotEnrolled says that a device was not, or is no longer, let in.
	ErrNotEnrolled = errors.New("device is not enrolled")
	// ErrAck says that an acknowledgement does not belong to the decision it names.
	ErrAck = errors.New("acknowledgement does not match the decision")
)

// Config tells where the data is and how this process signs its audit log.
type Config struct {
	// DSN is a file path (SQLite) or a postgres:// URL, whose server must be this machine or show a certificate that
	// is checked ([ErrLink]).
	DSN string
	// Replica names this server's audit chain. Processes that share a chain must share a store.
	Replica string
	// Signer signs the head of the audit chain (ECDSA P-256).
	Signer crypto.Signer
	// Now is the clock; nil means time.Now.
	Now func() time.Time
}

// Store is an open database. It is safe for concurrent use, and several processes may have the same
// database open.
type Store struct {
	db      *sql.DB
	replica string
	signer  crypto.Signer
	now     func() time.Time
	// write holds a token while somebody writes, one a process: SQLite allows one writer, and the audit chain is
	// serial anyhow. It is no mutex, so that nobody waits longer than its context.
	write chan struct{}
}

// Open opens the database, creating file and tables when they are missing.
func Open(ctx context.Context, c Config) (*Store, error) {
	if c.Signer == nil || c.Replica == "" {
		return nil, errors.New("store: an audit signer and a replica name are required")
	}
	if c.Now == nil {
		c.Now = time.Now
	}
	driver, open := driverSQLite, openSQLite
	if isPostgres(c.DSN) {
		driver, open = "postgres", openPostgres
	}
	db, err := open(c.DSN)
	if err != nil {
		return nil, fmt.Errorf("open store (%s): %w", driver, err)
	}
	db.SetMaxOpenConns(16)
	db.SetMaxIdleConns(16)
	s := &Store{db: db, replica: c.Replica, signer: c.Signer, now: c.Now, write: make(chan struct{}, 1)}
	if err := s.prepare(ctx, driver); err != nil {
		return nil, errors.Join(fmt.Errorf("prepare store (%s): %w", driver, err), db.Close())
	}
	return s, nil
}

// Close releases the database.
func (s *Store) Close() error { return s.db.Close() }

// Ping tells whether the database answers.
func (s *Store) Ping(ctx context.Context) error { return s.db.PingContext(ctx) }

func isPostgres(dsn string) bool {
	return strings.HasPrefix(dsn, "postgres://") || strings.HasPrefix(dsn, "postgresql://")
}

const driverSQLite = "sqlite"

func openSQLite(path string) (*sql.DB, error) {
	if err := checkFile(path); err != nil {
		return nil, err
	}
	if err := createPrivate(path); err != nil {
		return nil, err
	}
	return sql.Open(driverSQLite, sqliteDSN(path))
}

// busyTimeout is how long one program waits for another that writes.
const busyTimeout = 10 * time.Second

// sqliteDSN asks for durability at every commit (a release must not outlive its audit record) and
// for immediate transactions, so that two writers queue instead of failing half way.
func sqliteDSN(path string) string {
	q := url.Values{}
	for _, p := range []string{"synchronous(FULL)", fmt.Sprintf("busy_timeout(%d)", busyTimeout.Milliseconds()), "foreign_keys(1)"} {
		q.Add("_pragma", p)
	}
	q.Set("_txlock", "immediate")
	return (&url.URL{Scheme: "file", Opaque: (&url.URL{Path: path}).EscapedPath(), RawQuery: q.Encode()}).String()
}

// createPrivate makes the file with mode 0600 before SQLite would make it with the umask's; the
// journals inherit the mode.
func createPrivate(path string) error {
	f, err := os.OpenFile(filepath.Clean(path), os.O_CREATE|os.O_RDWR, 0o600)
	if err != nil {
		return fmt.Errorf("create store: %w", err)
	}
	fi, err := f.Stat()
	if cerr := f.Close(); err == nil {
		err = cerr
	}
	if err != nil {
		return fmt.Errorf("create store: %w", err)
	}
	if fi.Mode().Perm()&0o077 != 0 {
		return fmt.Errorf("store %s has mode %04o: it holds join tokens, run chmod 600", path, fi.Mode().Perm())
	}
	return nil
}

// schema is valid in both dialects. Times are milliseconds since 1970, hashes lower-case hex.
var schema = []string{
	`CREATE TABLE IF NOT EXISTS devices (
		id TEXT PRIMARY KEY, label TEXT NOT NULL, state TEXT NOT NULL, tier TEXT NOT NULL,
		enrolled_at BIGINT NOT NULL, may_format BIGINT NOT NULL,
		ak_name TEXT NOT NULL, agent_name TEXT NOT NULL, repair_floor BIGINT NOT NULL, policy TEXT NOT NULL, confirmed TEXT NOT NULL, attempt TEXT NOT NULL,
		orders BIGINT NOT NULL, format_order BIGINT NOT NULL, repair_order BIGINT NOT NULL)`,
	`CREATE TABLE IF NOT EXISTS endorsement_keys (
		hash TEXT PRIMARY KEY, device TEXT NOT NULL REFERENCES devices(id) ON DELETE CASCADE)`,
	`CREATE INDEX IF NOT EXISTS endorsement_keys_device ON endorsement_keys(device)`,
	`CREATE TABLE IF NOT EXISTS denials (
		device TEXT PRIMARY KEY REFERENCES devices(id) ON DELETE CASCADE, status TEXT NOT NULL)`,
	`CREATE TABLE IF NOT EXISTS versions (
		device TEXT NOT NULL REFERENCES devices(id) ON DELETE CASCADE, name TEXT NOT NULL, value BIGINT NOT NULL,
		PRIMARY KEY (device, name))`,
	`CREATE TABLE IF NOT EXISTS decisions (
		cookie TEXT PRIMARY KEY, id TEXT NOT NULL UNIQUE, device TEXT NOT NULL, expires BIGINT NOT NULL,
		ack TEXT NOT NULL, effects TEXT NOT NULL, acked BIGINT NOT NULL)`,
	`CREATE INDEX IF NOT EXISTS decisions_expires ON decisions(expires)`,
	`CREATE INDEX IF NOT EXISTS decisions_device ON decisions(device)`,
	`CREATE TABLE IF NOT EXISTS documents (
		kind TEXT NOT NULL, name TEXT NOT NULL, body TEXT NOT NULL, added BIGINT NOT NULL, retired BIGINT NOT NULL,
		PRIMARY KEY (kind, name))`,
	`CREATE TABLE IF NOT EXISTS tokens (
		name TEXT PRIMARY KEY, secret TEXT NOT NULL, expires BIGINT NOT NULL, uses BIGINT NOT NULL)`,
	`CREATE TABLE IF NOT EXISTS audit (
		replica TEXT NOT NULL, seq BIGINT NOT NULL, prev TEXT NOT NULL, hash TEXT NOT NULL, body TEXT NOT NULL,
		PRIMARY KEY (replica, seq))`,
	`CREATE TABLE IF NOT EXISTS heads (
		replica TEXT PRIMARY KEY, seq BIGINT NOT NULL, hash TEXT NOT NULL, signature TEXT NOT NULL, time BIGINT NOT NULL)`,
	`CREATE TABLE IF NOT EXISTS counters (name TEXT PRIMARY KEY, value BIGINT NOT NULL)`,
	`INSERT INTO counters (name, value) VALUES ('documents', 0) ON CONFLICT DO NOTHING`,
}

// schemaVersion is checked so that an older program never writes a newer database.
const schemaVersion = 2

// fromVersion1 adds what the first schema had not: numbers of orders. Those in force then are number 0, older than any boot.
var fromVersion1 = []string{
	"ALTER TABLE devices ADD COLUMN orders BIGINT NOT NULL DEFAULT 0",
	"ALTER TABLE devices ADD COLUMN format_order BIGINT NOT NULL DEFAULT 0",
	"ALTER TABLE devices ADD COLUMN repair_order BIGINT NOT NULL DEFAULT 0",
}

// prepare gives a new database its journal, if it has one, and its tables.
func (s *Store) prepare(ctx context.Context, driver string) error {
	if driver == driverSQLite {
		if err := s.useWAL(ctx); err != nil {
			return err
		}
	}
	return s.migrate(ctx, driver)
}

// useWAL switches a new file to a write-ahead log, which it keeps. Where another program is about to
// write, such as its own switch, SQLite fails here at once, though it waits everywhere else.
func (s *Store) useWAL(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, busyTimeout)
	defer cancel()
	for {
		var mode string
		err := s.db.QueryRowContext(ctx, "PRAGMA journal_mode = WAL").Scan(&mode)
		var failed *sqlite.Error
		switch {
		case err == nil && mode != "wal":
			return fmt.Errorf("the file cannot have a write-ahead log (is it on a network file system?), journal mode %q", mode)
		case !errors.As(err, &failed) || failed.Code()&0xff != sqlite3.SQLITE_BUSY: // no error among them
			return err
		}
		select {
		case <-time.After(20 * time.Millisecond):
		case <-ctx.Done():
			return fmt.Errorf("wait for other programs to leave the file: %w: %w", context.Cause(ctx), err)
		}
	}
}

// migrationLock is the number of the lock, in a database of PostgreSQL, of who makes or upgrades the tables.
const migrationLock = 0x5ea1b007

func (s *Store) migrate(ctx context.Context, driver string) error {
	return s.update(ctx, func(tx *sql.Tx) error {
		if driver != driverSQLite {
			// Of two replicas that start at once, PostgreSQL fails one in CREATE TABLE IF NOT EXISTS. SQLite has one writer.
			if _, err := tx.ExecContext(ctx, "SELECT pg_advisory_xact_lock($1)", migrationLock); err != nil {
				return fmt.Errorf("wait for other programs that start: %w", err)
			}
		}
		for _, q := range schema {
			if _, err := tx.ExecContext(ctx, q); err != nil {
				return err
			}
		}
		if _, err := tx.ExecContext(ctx,
			"INSERT INTO counters (name, value) VALUES ('schema', $1) ON CONFLICT DO NOTHING", schemaVersion); err != nil {
			return err
		}
		if err := upgrade(ctx, tx); err != nil {
			return err
		}
		var v int
		if err := tx.QueryRowContext(ctx, "SELECT value FROM counters WHERE name = 'schema'").Scan(&v); err != nil {
			return err
		}
		if v != schemaVersion {
			return fmt.Errorf("database has schema %d and this program knows %d: use the program that made it", v, schemaVersion)
		}
		return nil
	})
}

// upgrade brings a database of version 1 up to date, in one process if several start at once.
func upgrade(ctx context.Context, tx *sql.Tx) error {
	errNone := errors.New("not of version 1")
	r, err := tx.ExecContext(ctx, "UPDATE counters SET value = $1 WHERE name = 'schema' AND value = 1", schemaVersion)
	if err := changed(r, err, errNone); errors.Is(err, errNone) {
		return nil
	} else if err != nil {
		return err
	}
	for _, q := range fromVersion1 {
		if _, err := tx.ExecContext(ctx, q); err != nil {
			return fmt.Errorf("upgrade the database to schema %d: %w", schemaVersion, err)
		}
	}
	return nil
}

// update runs f in one write transaction. Nothing f did is kept unless update returns nil.
func (s *Store) update(ctx context.Context, f func(*sql.Tx) error) error {
	select {
	case s.write <- struct{}{}:
		defer func() { <-s.write }()
	case <-ctx.Done():
		return fmt.Errorf("wait for other writers: %w", context.Cause(ctx))
	}
	tx, err := s.db.BeginTx(ctx, nil)
	if err != nil {
		return fmt.Errorf("begin transaction: %w", err)
	}
	defer tx.Rollback() //nolint:errcheck // no effect after Commit
	if err := f(tx); err != nil {
		return err
	}
	if err := tx.Commit(); err != nil {
		return fmt.Errorf("commit: %w", err)
	}
	return nil
}

// changed returns errNone unless the statement touched at least one row.
func changed(r sql.Result, err, errNone error) error {
	if err != nil {
		return err
	}
	n, err := r.RowsAffected()
	if err != nil {
		return err
	}
	if n == 0 {
		return errNone
	}
	return nil
}

func millis(t time.Time) int64 {
	if t.IsZero() {
		return 0
	}
	return t.UnixMilli()
}

func fromMillis(ms int64) time.Time {
	if ms == 0 {
		return time.Time{}
	}
	return time.UnixMilli(ms).UTC()
}

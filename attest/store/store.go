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
	// serial anyhow. It is no mutex, so that no one waits longer than its context.
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

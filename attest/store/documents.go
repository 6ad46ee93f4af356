package store

import (
	"context"
	"database/sql"
	"encoding/json"
	"fmt"
	"time"
)

// Document is a named JSON text the appraisal reads: an appraisal policy, a set of reference values, a
// firmware profile. The store does not look inside.
type Document struct {
	Kind    string
	Name    string
	Body    json.RawMessage
	Added   time.Time
	Retired time.Time // zero while it is in use
}

// Add stores a new document. A name is never reused: what a verdict was based on stays readable.
func (s *Store) Add(ctx context.Context, d Document, e Event) error {
	return s.changeDocument(ctx, e, ErrExists, `INSERT INTO documents (kind, name, body, added, retired)
		VALUES ($1, $2, $3, $4, 0) ON CONFLICT DO NOTHING`, d.Kind, d.Name, string(d.Body), millis(s.now()))
}

// Retire takes a document out of use. It stays stored.
func (s *Store) Retire(ctx context.Context, kind, name string, e Event) error {
	return s.changeDocument(ctx, e, ErrNotFound,
		"UPDATE documents SET retired = $1 WHERE kind = $2 AND name = $3 AND retired = 0", millis(s.now()), kind, name)
}

func (s *Store) changeDocument(ctx context.Context, e Event, none error, query string, args ...any) error {
	return s.update(ctx, func(tx *sql.Tx) error {
		r, err := tx.ExecContext(ctx, query, args...)
		if err := changed(r, err, none); err != nil {
			return fmt.Errorf("change documents: %w", err)
		}
		if _, err := tx.ExecContext(ctx, "UPDATE counters SET value = value + 1 WHERE name = 'documents'"); err != nil {
			return fmt.Errorf("change documents: %w", err)
		}
		return s.append(ctx, tx, e)
	})
}

// Documents returns all documents, retired ones too, ordered by kind and time of addition.
func (s *Store) Documents(ctx context.Context) ([]Document, error) {
	rows, err := s.db.QueryContext(ctx, "SELECT kind, name, body, added, retired FROM documents ORDER BY kind, added, name")
	if err != nil {
		return nil, fmt.Errorf("list documents: %w", err)
	}
	return collect(rows, func(scan func(...any) error) (d Document, err error) {
		var text string
		var added, retired int64
		err = scan(&d.Kind, &d.Name, &text, &added, &retired)
		d.Body, d.Added, d.Retired = json.RawMessage(text), fromMillis(added), fromMillis(retired)
		return d, err
	})
}

// Generation changes whenever a document does, so that a server can keep what it parsed.
func (s *Store) Generation(ctx context.Context) (int64, error) {
	var n int64
	if err := s.db.QueryRowContext(ctx, "SELECT value FROM counters WHERE name = 'documents'").Scan(&n); err != nil {
		return 0, fmt.Errorf("read generation of documents: %w", err)
	}
	return n, nil
}

// Token admits unknown devices to the waiting list. Its secret must be readable, because a device
// proves that it knows the token without sending it.
type Token struct {
	Name    string
	Secret  []byte
	Expires time.Time
	Uses    int64 // devices it can still admit
}

// AddToken stores a join token.
func (s *Store) AddToken(ctx context.Context, t Token, e Event) error {
	return s.update(ctx, func(tx *sql.Tx) error {
		r, err := tx.ExecContext(ctx, "INSERT INTO tokens (name, secret, expires, uses) VALUES ($1, $2, $3, $4) ON CONFLICT DO NOTHING",
			t.Name, string(t.Secret), millis(t.Expires), t.Uses)
		if err := changed(r, err, ErrExists); err != nil {
			return fmt.Errorf("add token %s: %w", t.Name, err)
		}
		return s.append(ctx, tx, e)
	})
}

// Tokens returns the tokens that can still be used.
func (s *Store) Tokens(ctx context.Context) ([]Token, error) {
	rows, err := s.db.QueryContext(ctx, "SELECT name, secret, expires, uses FROM tokens WHERE expires > $1 AND uses > 0 ORDER BY name",
		millis(s.now()))
	if err != nil {
		return nil, fmt.Errorf("list tokens: %w", err)
	}
	return collect(rows, func(scan func(...any) error) (t Token, err error) {
		var secret string
		var ms int64
		err = scan(&t.Name, &secret, &ms, &t.Uses)
		t.Secret, t.Expires = []byte(secret), fromMillis(ms)
		return t, err
	})
}

// Join puts an unknown device on the waiting list and takes one use of the token, both or neither.
// [ErrNotFound] means that the token has no use left, [ErrExists] that the device is known.
func (s *Store) Join(ctx context.Context, token string, d Device, e Event) error {
	return s.update(ctx, func(tx *sql.Tx) error {
		r, err := tx.ExecContext(ctx, "UPDATE tokens SET uses = uses - 1 WHERE name = $1 AND uses > 0 AND expires > $2", token, millis(s.now()))
		if err := changed(r, err, ErrNotFound); err != nil {
			return fmt.Errorf("use token %s: %w", token, err)
		}
		d.State, d.Tier = Pending, "token"
		return s.enrol(ctx, tx, d, e)
	})
}

package store

import (
	"cmp"
	"context"
	"crypto"
	"crypto/ecdsa"
	"crypto/rand"
	"crypto/sha256"
	"database/sql"
	"encoding/base64"
	"encoding/binary"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"time"
)

// ErrChain says that an audit chain does not hold together: a record was changed, removed, inserted
// or moved, or its head was not signed by the expected key.
var ErrChain = errors.New("audit chain is broken")

// Event is what happened, as the audit log keeps it. It never holds a secret.
type Event struct {
	Kind     string            `json:"kind"` // "decision", "ack", "enrol", "state", "format", "policy", "token", "secret", "health", "unrecorded"
	Device   string            `json:"device,omitempty"`
	Decision string            `json:"decision,omitempty"`
	Phase    string            `json:"phase,omitempty"`
	Verdict  string            `json:"verdict,omitempty"` // "allow" or "deny"
	Stage    string            `json:"stage,omitempty"`
	Reason   string            `json:"reason,omitempty"`
	Actor    string            `json:"actor,omitempty"` // who asked, for what an operator did
	Detail   map[string]string `json:"detail,omitempty"`
}

// Record is one link of a replica's chain. Hash covers Prev and the exact bytes of Body.
type Record struct {
	Replica string          `json:"replica"`
	Seq     int64           `json:"seq"` // from 1, without gaps
	Prev    string          `json:"prev"`
	Hash    string          `json:"hash"`
	Body    json.RawMessage `json:"body"` // a body: Event with its time
}

// Head is the end of a chain, signed. Anyone who kept an older head can tell whether the log was cut.
type Head struct {
	Replica   string    `json:"replica"`
	Seq       int64     `json:"seq"`
	Hash      string    `json:"hash"`
	Time      time.Time `json:"time"`
	Signature string    `json:"signature"` // base64 ASN.1 ECDSA over the head's digest
}

type body struct {
	Time time.Time `json:"time"`
	Event
}

// Event decodes the record.
func (r Record) Event() (time.Time, Event, error) {
	var b body
	if err := json.Unmarshal(r.Body, &b); err != nil {
		return time.Time{}, Event{}, fmt.Errorf("audit record %s/%d: %w", r.Replica, r.Seq, err)
	}
	return b.Time, b.Event, nil
}

func recordHash(replica string, seq int64, prev string, body []byte) string {
	h := sha256.New()
	for _, part := range [][]byte{[]byte("sealboot/audit/v1"), []byte(replica), binary.BigEndian.AppendUint64(nil, uint64(seq)), []byte(prev), body} {
		h.Write(binary.BigEndian.AppendUint64(nil, uint64(len(part))))
		h.Write(part)
	}
	return hex.EncodeToString(h.Sum(nil))
}

// digest is what the head's signature covers.
func (h Head) digest() []byte {
	d := sha256.Sum256(fmt.Appendf(nil, "sealboot/audit-head/v1\n%q\n%d\n%s\n%d\n", h.Replica, h.Seq, h.Hash, h.Time.UnixMilli()))
	return d[:]
}

// Verify checks the head's signature.
func (h Head) Verify(key *ecdsa.PublicKey) error {
	sig, err := base64.StdEncoding.DecodeString(h.Signature)
	if err != nil || !ecdsa.VerifyASN1(key, h.digest(), sig) {
		return fmt.Errorf("%w: head %d of %q is not signed by the expected key", ErrChain, h.Seq, h.Replica)
	}
	return nil
}

// Verifier follows a chain record by record. Its zero value starts at the beginning of a chain.
type Verifier struct {
	seq  int64
	hash string
}

// Add checks that r is the next link.
func (v *Verifier) Add(r Record) error {
	switch {
	case r.Seq != v.seq+1:
		return fmt.Errorf("%w: %q has record %d after %d", ErrChain, r.Replica, r.Seq, v.seq)
	case r.Prev != v.hash:
		return fmt.Errorf("%w: record %d of %q does not continue the one before", ErrChain, r.Seq, r.Replica)
	case r.Hash != recordHash(r.Replica, r.Seq, r.Prev, r.Body):
		return fmt.Errorf("%w: record %d of %q was changed", ErrChain, r.Seq, r.Replica)
	}
	v.seq, v.hash = r.Seq, r.Hash
	return nil
}

// At tells whether the records added so far end at h.
func (v *Verifier) At(h Head) error {
	if v.seq != h.Seq || v.hash != h.Hash {
		return fmt.Errorf("%w: %q ends at record %d, its head says %d", ErrChain, h.Replica, v.seq, h.Seq)
	}
	return nil
}

// Note adds a record of something that changes nothing in the store.
func (s *Store) Note(ctx context.Context, e Event) error {
	return s.update(ctx, func(tx *sql.Tx) error { return s.append(ctx, tx, e) })
}

// append adds e to this replica's chain inside tx and signs the new head. Updating the head's row
// first serialises the writers of a chain in both dialects.
func (s *Store) append(ctx context.Context, tx *sql.Tx, e Event) error {
	if _, err := tx.ExecContext(ctx, `INSERT INTO heads (replica, seq, hash, signature, time) VALUES ($1, 0, '', '', 0)
		ON CONFLICT DO NOTHING`, s.replica); err != nil {
		return fmt.Errorf("audit: %w", err)
	}
	h := Head{Replica: s.replica, Time: s.now().UTC().Truncate(time.Millisecond)}
	var prev string
	if err := tx.QueryRowContext(ctx, "UPDATE heads SET seq = seq + 1 WHERE replica = $1 RETURNING seq, hash",
		s.replica).Scan(&h.Seq, &prev); err != nil {
		return fmt.Errorf("audit: %w", err)
	}
	b, err := json.Marshal(body{Time: h.Time, Event: e})
	if err != nil {
		return fmt.Errorf("audit: %w", err)
	}
	h.Hash = recordHash(s.replica, h.Seq, prev, b)
	sig, err := s.signer.Sign(rand.Reader, h.digest(), crypto.SHA256)
	if err != nil {
		return fmt.Errorf("sign audit head: %w", err)
	}
	if _, err := tx.ExecContext(ctx, "INSERT INTO audit (replica, seq, prev, hash, body) VALUES ($1, $2, $3, $4, $5)",
		s.replica, h.Seq, prev, h.Hash, string(b)); err != nil {
		return fmt.Errorf("audit: %w", err)
	}
	_, err = tx.ExecContext(ctx, "UPDATE heads SET hash = $1, signature = $2, time = $3 WHERE replica = $4",
		h.Hash, base64.StdEncoding.EncodeToString(sig), h.Time.UnixMilli(), s.replica)
	if err != nil {
		return fmt.Errorf("audit: %w", err)
	}
	return nil
}

// Audit returns at most limit records of a chain that follow record number after, oldest first.
func (s *Store) Audit(ctx context.Context, replica string, after int64, limit int) ([]Record, error) {
	rows, err := s.db.QueryContext(ctx, `SELECT replica, seq, prev, hash, body FROM audit
		WHERE replica = $1 AND seq > $2 ORDER BY seq LIMIT $3`, replica, after, limit)
	if err != nil {
		return nil, fmt.Errorf("read audit log: %w", err)
	}
	return collect(rows, func(scan func(...any) error) (r Record, err error) {
		var b string
		err = scan(&r.Replica, &r.Seq, &r.Prev, &r.Hash, &b)
		r.Body = json.RawMessage(b)
		return r, err
	})
}

// Heads returns the signed end of every replica's chain.
func (s *Store) Heads(ctx context.Context) ([]Head, error) {
	rows, err := s.db.QueryContext(ctx, "SELECT replica, seq, hash, signature, time FROM heads ORDER BY replica")
	if err != nil {
		return nil, fmt.Errorf("read audit heads: %w", err)
	}
	return collect(rows, func(scan func(...any) error) (h Head, err error) {
		var ms int64
		err = scan(&h.Replica, &h.Seq, &h.Hash, &h.Signature, &ms)
		h.Time = fromMillis(ms)
		return h, err
	})
}

// auditPage is how many records are read at once.
const auditPage = 1000

// VerifyAudit follows the chain of a replica from its first record to its head, which it returns, and checks the
// head's signature. Heads of the same chain that were put away earlier must be signed too, and on the way: a log that
// was cut and continued fails with [ErrChain], as a changed one does. It may be used while records are added.
func (s *Store) VerifyAudit(ctx context.Context, replica string, key *ecdsa.PublicKey, kept ...Head) (Head, error) {
	heads, err := s.Heads(ctx)
	if err != nil {
		return Head{}, err
	}
	i := slices.IndexFunc(heads, func(h Head) bool { return h.Replica == replica })
	if i < 0 {
		return Head{}, fmt.Errorf("%w: there is none of %q", ErrChain, replica)
	}
	way := append(slices.Clone(kept), heads[i])
	slices.SortStableFunc(way, func(a, b Head) int { return cmp.Compare(a.Seq, b.Seq) })
	var v Verifier
	for _, h := range way {
		if h.Replica != replica {
			return Head{}, fmt.Errorf("%w: a head of %q is not one of %q", ErrChain, h.Replica, replica)
		}
		if err := h.Verify(key); err != nil {
			return Head{}, err
		}
		if err := s.follow(ctx, &v, h); err != nil {
			return Head{}, err
		}
	}
	return heads[i], nil
}

// follow adds the records up to a head.
func (s *Store) follow(ctx context.Context, v *Verifier, h Head) error {
	for v.seq < h.Seq {
		records, err := s.Audit(ctx, h.Replica, v.seq, int(min(auditPage, h.Seq-v.seq)))
		if err != nil {
			return err
		}
		if len(records) == 0 {
			break
		}
		for _, r := range records {
			if err := v.Add(r); err != nil {
				return err
			}
		}
	}
	return v.At(h)
}

// collect reads all rows and closes them.
func collect[T any](rows *sql.Rows, one func(scan func(...any) error) (T, error)) ([]T, error) {
	defer rows.Close()
	var out []T
	for rows.Next() {
		v, err := one(rows.Scan)
		if err != nil {
			return nil, err
		}
		out = append(out, v)
	}
	return out, rows.Err()
}

package store

import (
	"context"
	"crypto/subtle"
	"database/sql"
	"encoding/json"
	"errors"
	"fmt"
	"time"
)

// Decision is the outcome of one appraisal. The zero value denies.
type Decision struct {
	Cookie  string    // hash of the challenge; the first decision on it wins
	ID      string    // random, unique
	Device  string    // ID of the device, or "" when it is not known
	Expires time.Time // when the challenge would have expired by itself
	Allow   bool      //
	Ack     string    // hash of the acknowledgement that proves the device read the answer; "" where none is expected
	Status  Status    // what to show for the device
	Event   Event     // the audit record
	Effects Effects   // what Confirm commits
}

// Effects are the changes an acknowledged release makes.
type Effects struct {
	Status   Status           `json:"status"`
	Versions map[string]int64 `json:"versions,omitempty"`
	// AKName and AgentName are set by a boot: with the acknowledgement they are proven, and orders that the boot knew
	// of are done.
	AKName    string `json:"akName,omitempty"`
	AgentName string `json:"agentName,omitempty"`
	// Heard is the last order (of [Device.Orders]) that the device had heard of when it looked at its floor, Released
	// the last that was in force when the release said whether to format.
	Heard    int64 `json:"heard,omitempty"`
	Released int64 `json:"released,omitempty"`
}

// keepDecision is how long after its challenge's expiry a decision can still be acknowledged and is kept; the
// challenge itself is refused by its own expiry long before. An acknowledgement follows its release within minutes:
// one that somebody held back says nothing of the device as it is.
const keepDecision = 10 * time.Minute

// Decide claims the challenge and writes the audit record in one transaction. Only after it returned
// nil may an answer leave the server. It returns [ErrClaimed] when the challenge was used before, and [ErrNotEnrolled],
// having written nothing, when a device would be let in that somebody has quarantined since it was looked up.
func (s *Store) Decide(ctx context.Context, d Decision) error {
	if d.Cookie == "" || d.ID == "" || (d.Ack != "" && !d.Allow) {
		return errors.New("store: a decision needs a cookie and an id, and a denial is never acknowledged")
	}
	effects, err := json.Marshal(d.Effects)
	if err != nil {
		return err
	}
	d.Event.Kind, d.Event.Device, d.Event.Decision, d.Event.Verdict = "decision", d.Device, d.ID, "deny"
	if d.Allow {
		d.Event.Verdict = "allow"
	}
	d.Status.Verdict, d.Status.Decision = d.Event.Verdict, d.ID
	return s.update(ctx, func(tx *sql.Tx) error {
		r, err := tx.ExecContext(ctx, `INSERT INTO decisions (cookie, id, device, expires, ack, effects, acked)
			VALUES ($1, $2, $3, $4, $5, $6, 0) ON CONFLICT DO NOTHING`,
			d.Cookie, d.ID, d.Device, millis(d.Expires), d.Ack, string(effects))
		if err := changed(r, err, ErrClaimed); err != nil {
			return fmt.Errorf("decide %s: %w", d.ID, err)
		}
		if d.Device != "" {
			if err := setAttempt(ctx, tx, d.Device, d.Status); err != nil {
				return err
			}
		}
		if d.Allow {
			if err := stillEnrolled(ctx, tx, d.Device); err != nil {
				return fmt.Errorf("decide %s: %w", d.ID, err)
			}
		}
		return s.append(ctx, tx, d.Event)
	})
}

// stillEnrolled reads the state of a device whose row this transaction has locked by writing to it.
func stillEnrolled(ctx context.Context, tx *sql.Tx, device string) error {
	var state State
	err := tx.QueryRowContext(ctx, "SELECT state FROM devices WHERE id = $1", device).Scan(&state)
	if errors.Is(err, sql.ErrNoRows) || err == nil && state != Enrolled {
		return ErrNotEnrolled
	}
	return err
}

// Confirm commits the effects of a decision whose acknowledgement hashes to ack: the device has proven
// that its endorsement key, its attestation key and the approved PCR values were together. It is
// idempotent, because the answer to an acknowledgement can be lost too. When a later boot was acknowledged
// before, only the versions count. An order that the boot did not know of stays in force.
func (s *Store) Confirm(ctx context.Context, id, ack string) error {
	return s.update(ctx, func(tx *sql.Tx) error {
		var device, want, effects string
		var expires int64
		err := tx.QueryRowContext(ctx, "SELECT device, ack, effects, expires FROM decisions WHERE id = $1", id).
			Scan(&device, &want, &effects, &expires)
		if errors.Is(err, sql.ErrNoRows) {
			return fmt.Errorf("confirm %s: %w", id, ErrNotFound)
		}
		if err != nil {
			return fmt.Errorf("confirm %s: %w", id, err)
		}
		if want == "" || subtle.ConstantTimeCompare([]byte(want), []byte(ack)) != 1 {
			return fmt.Errorf("confirm %s: %w", id, ErrAck)
		}
		if s.now().After(fromMillis(expires).Add(keepDecision)) {
			return fmt.Errorf("confirm %s: %w: it comes too late", id, ErrAck)
		}
		r, err := tx.ExecContext(ctx, "UPDATE decisions SET acked = $1 WHERE id = $2 AND acked = 0 AND ack = $3", millis(s.now()), id, want)
		if err := changed(r, err, errAcked); errors.Is(err, errAcked) {
			return nil
		} else if err != nil {
			return fmt.Errorf("confirm %s: %w", id, err)
		}
		var fx Effects
		if err := json.Unmarshal([]byte(effects), &fx); err != nil {
			return fmt.Errorf("confirm %s: %w", id, err)
		}
		if err := s.applyEffects(ctx, tx, device, id, expires, fx); err != nil {
			return err
		}
		return s.append(ctx, tx, Event{Kind: "ack", Device: device, Decision: id, Phase: fx.Status.Phase})
	})
}

var errAcked = errors.New("acknowledged before")

func (s *Store) applyEffects(ctx context.Context, tx *sql.Tx, device, id string, expires int64, fx Effects) error {
	// Of two boots that are acknowledged at once, with different replicas, the second waits here and sees the first.
	if _, err := tx.ExecContext(ctx, "UPDATE devices SET confirmed = confirmed WHERE id = $1", device); err != nil {
		return fmt.Errorf("confirm %s: %w", id, err)
	}
	var later int
	if err := tx.QueryRowContext(ctx, "SELECT COUNT(*) FROM decisions WHERE device = $1 AND acked > 0 AND expires > $2", device, expires).
		Scan(&later); err != nil {
		return fmt.Errorf("confirm %s: %w", id, err)
	}
	if later > 0 {
		return raiseVersions(ctx, tx, device, fx.Versions)
	}
	fx.Status.Verdict, fx.Status.Decision = "allow", id
	b, err := json.Marshal(fx.Status)
	if err != nil {
		return err
	}
	if _, err := tx.ExecContext(ctx, "UPDATE devices SET confirmed = $1 WHERE id = $2", string(b), device); err != nil {
		return fmt.Errorf("confirm %s: %w", id, err)
	}
	if fx.AKName != "" {
		if _, err := tx.ExecContext(ctx, `UPDATE devices SET ak_name = $1, agent_name = $2,
			may_format = CASE WHEN format_order > $3 THEN may_format ELSE 0 END,
			repair_floor = CASE WHEN repair_order > $4 THEN repair_floor ELSE -1 END
			WHERE id = $5`, fx.AKName, fx.AgentName, fx.Released, fx.Heard, device); err != nil {
			return fmt.Errorf("confirm %s: %w", id, err)
		}
	}
	return raiseVersions(ctx, tx, device, fx.Versions)
}

// Prune forgets decisions whose challenge expired long ago; the audit log keeps their record. It
// returns how many.
func (s *Store) Prune(ctx context.Context) (n int64, err error) {
	err = s.update(ctx, func(tx *sql.Tx) error {
		r, err := tx.ExecContext(ctx, "DELETE FROM decisions WHERE expires < $1", millis(s.now().Add(-keepDecision)))
		if err != nil {
			return fmt.Errorf("prune decisions: %w", err)
		}
		n, err = r.RowsAffected()
		return err
	})
	return n, err
}

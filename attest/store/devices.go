package store

import (
	"context"
	"database/sql"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"slices"
	"time"
)

// State is what an operator, or the first proof of a device, made of it.
type State string

// A device is Pending after it showed a join token and until an operator allows it, Enrolled while it
// may attest, Quarantined when nothing may be released to it.
const (
	Pending     State = "pending"
	Enrolled    State = "enrolled"
	Quarantined State = "quarantined"
)

// Device is one machine. Its identity is its endorsement key and nothing else.
type Device struct {
	ID         string    `json:"id"`         // hash of the first endorsement key enrolled; never changes
	EKs        []string  `json:"eks"`        // hashes of all its endorsement keys, ID included
	Label      string    `json:"label"`      // the operator's name for it
	State      State     `json:"state"`      //
	Tier       string    `json:"tier"`       // what endorsed the key: "certificate", "hash" or "token"
	EnrolledAt time.Time `json:"enrolledAt"` //
	// MayFormat says that no release was acknowledged yet, or that an operator said so: blank volumes may
	// be formatted.
	MayFormat bool `json:"mayFormat"`
	// AKName and AgentName are the TPM Names (hex) of the keys that an acknowledged boot proved to live
	// next to the endorsement key. A renewal, which proves no such thing, must show the same.
	AKName    string `json:"akName,omitempty"`
	AgentName string `json:"agentName,omitempty"`
	// RepairFloor is an order to write a rollback floor that is missing, destroyed or too high, with this image
	// version, until the device has acknowledged a boot that had heard of it; nil when there is none.
	RepairFloor *int64 `json:"repairFloor,omitempty"`
	// Orders counts the orders to repair the floor or to format, and so names the last one. A boot says which it
	// knew of ([Effects]): its acknowledgement ends none that was given later.
	Orders    int64        `json:"orders,omitempty"`
	Policy    DevicePolicy `json:"policy"`
	Confirmed Status       `json:"confirmed"` // last boot the device proved (M5)
	Attempt   Status       `json:"attempt"`   // last attempt that named this device; not proven to come from it
	Denied    Status       `json:"denied"`    // last attempt that was denied, which no report and no release replaces
}

// HiddenDenial returns the denial since the last proven boot that a later attempt hides, or nil. Anyone can report, or
// have evidence of his own released to, in a device's name: what attestd has denied is shown until the device proves
// a boot.
func (d Device) HiddenDenial() *Status {
	if d.Denied.Verdict == "" || d.Attempt.Verdict == d.Denied.Verdict || !d.Denied.Time.After(d.Confirmed.Time) {
		return nil
	}
	return &d.Denied
}

// DevicePolicy is what an operator decided about one device beyond the site's policy.
type DevicePolicy struct {
	Profiles        []string `json:"profiles,omitempty"`        // firmware profiles that it may match; empty means any
	Images          []string `json:"images,omitempty"`          // images that it may run; empty means any
	AllowUnmeasured bool     `json:"allowUnmeasured,omitempty"` // its firmware measures nothing, and that is accepted
}

// Status describes one attestation.
type Status struct {
	Time     time.Time `json:"time"`
	Phase    string    `json:"phase,omitempty"`
	Verdict  string    `json:"verdict,omitempty"` // "allow", "deny", or "report" for what the device itself reported
	Stage    string    `json:"stage,omitempty"`
	Reason   string    `json:"reason,omitempty"`
	Image    string    `json:"image,omitempty"`
	Version  int64     `json:"version,omitempty"` // of the image
	Loader   string    `json:"loader,omitempty"`  // version of what spoke, in its own words
	Decision string    `json:"decision,omitempty"`
	Network  string    `json:"network,omitempty"` // from which a boot came, as a prefix; only proven in a Confirmed
}

// Enrol adds a device with all its endorsement keys, which must be unknown so far ([ErrExists]).
// ID, EKs and RepairFloor are set by the caller, EnrolledAt, MayFormat and Orders by Enrol.
func (s *Store) Enrol(ctx context.Context, d Device, e Event) error {
	return s.update(ctx, func(tx *sql.Tx) error { return s.enrol(ctx, tx, d, e) })
}

func (s *Store) enrol(ctx context.Context, tx *sql.Tx, d Device, e Event) error {
	if !slices.Contains(d.EKs, d.ID) {
		return fmt.Errorf("enrol %s: its own key is not among its endorsement keys", d.ID)
	}
	floor, order := int64(-1), 0
	if d.RepairFloor != nil {
		floor, order = *d.RepairFloor, 1
	}
	r, err := tx.ExecContext(ctx, `INSERT INTO devices (id, label, state, tier, enrolled_at, may_format,
		ak_name, agent_name, repair_floor, policy, confirmed, attempt, orders, format_order, repair_order)
		VALUES ($1, $2, $3, $4, $5, 1, '', '', $6, '{}', '{}', '{}', $7, 0, $7) ON CONFLICT DO NOTHING`,
		d.ID, d.Label, string(d.State), d.Tier, millis(s.now()), floor, order)
	if err := changed(r, err, ErrExists); err != nil {
		return fmt.Errorf("enrol %s: %w", d.ID, err)
	}
	for _, ek := range d.EKs {
		r, err := tx.ExecContext(ctx, "INSERT INTO endorsement_keys (hash, device) VALUES ($1, $2) ON CONFLICT DO NOTHING", ek, d.ID)
		if err := changed(r, err, ErrExists); err != nil {
			return fmt.Errorf("enrol %s with endorsement key %s: %w", d.ID, ek, err)
		}
	}
	e.Device = d.ID
	return s.append(ctx, tx, e)
}

const deviceColumns = "d.id, d.label, d.state, d.tier, d.enrolled_at, d.may_format, d.ak_name, d.agent_name, d.repair_floor, d.policy, d.confirmed, d.attempt, d.orders, " +
	"COALESCE((SELECT n.status FROM denials n WHERE n.device = d.id), '{}')"

func scanDevice(scan func(...any) error) (d Device, err error) {
	var at, format, repair int64
	var policy, confirmed, attempt, denied string
	if err := scan(&d.ID, &d.Label, &d.State, &d.Tier, &at, &format, &d.AKName, &d.AgentName, &repair, &policy, &confirmed, &attempt, &d.Orders, &denied); err != nil {
		return Device{}, err
	}
	d.EnrolledAt, d.MayFormat = fromMillis(at), format != 0
	if repair >= 0 {
		d.RepairFloor = &repair
	}
	return d, errors.Join(json.Unmarshal([]byte(policy), &d.Policy), json.Unmarshal([]byte(confirmed), &d.Confirmed), json.Unmarshal([]byte(attempt), &d.Attempt),
		json.Unmarshal([]byte(denied), &d.Denied))
}

// Device finds a device by the hash of any of its endorsement keys ([ErrNotFound]).
func (s *Store) Device(ctx context.Context, ek string) (Device, error) {
	d, err := scanDevice(s.db.QueryRowContext(ctx, "SELECT "+deviceColumns+` FROM devices d
		JOIN endorsement_keys k ON k.device = d.id WHERE k.hash = $1`, ek).Scan)
	if errors.Is(err, sql.ErrNoRows) {
		return Device{}, fmt.Errorf("device with endorsement key %s: %w", ek, ErrNotFound)
	}
	if err != nil {
		return Device{}, fmt.Errorf("read device %s: %w", ek, err)
	}
	rows, err := s.db.QueryContext(ctx, "SELECT hash FROM endorsement_keys WHERE device = $1 ORDER BY hash", d.ID)
	if err != nil {
		return Device{}, fmt.Errorf("read device %s: %w", d.ID, err)
	}
	d.EKs, err = collect(rows, func(scan func(...any) error) (h string, err error) { return h, scan(&h) })
	if err != nil {
		return Device{}, fmt.Errorf("read device %s: %w", d.ID, err)
	}
	return d, nil
}

// Devices returns at most limit devices whose ID follows after, ordered by ID, without their EKs.
func (s *Store) Devices(ctx context.Context, after string, limit int) ([]Device, error) {
	rows, err := s.db.QueryContext(ctx, "SELECT "+deviceColumns+" FROM devices d WHERE d.id > $1 ORDER BY d.id LIMIT $2", after, limit)
	if err != nil {
		return nil, fmt.Errorf("list devices: %w", err)
	}
	return collect(rows, scanDevice)
}

// Count returns the number of devices in each state.
func (s *Store) Count(ctx context.Context) (map[State]int64, error) {
	rows, err := s.db.QueryContext(ctx, "SELECT state, COUNT(*) FROM devices GROUP BY state")
	if err != nil {
		return nil, fmt.Errorf("count devices: %w", err)
	}
	defer rows.Close()
	out := map[State]int64{}
	for rows.Next() {
		var st State
		var n int64
		if err := rows.Scan(&st, &n); err != nil {
			return nil, err
		}
		out[st] = n
	}
	return out, rows.Err()
}

// SetState moves a device to another state.
func (s *Store) SetState(ctx context.Context, id string, st State, e Event) error {
	return s.changeDevice(ctx, id, e, "UPDATE devices SET state = $1 WHERE id = $2", string(st), id)
}

// Remove forgets a device that is not, or no longer, let in ([ErrEnrolled]), with all that it has proven. What was decided for it
// cannot be acknowledged any more, since the same TPM may be enrolled again; its challenges stay claimed.
func (s *Store) Remove(ctx context.Context, id string, e Event) error {
	return s.update(ctx, func(tx *sql.Tx) error {
		if err := remove(ctx, tx, id); err != nil {
			return fmt.Errorf("remove device %s: %w", id, err)
		}
		e.Device = id
		return s.append(ctx, tx, e)
	})
}

func remove(ctx context.Context, tx *sql.Tx, id string) error {
	// In the order in which Confirm takes its locks.
	if _, err := tx.ExecContext(ctx, "UPDATE decisions SET ack = '' WHERE device = $1", id); err != nil {
		return err
	}
	r, err := tx.ExecContext(ctx, "DELETE FROM devices WHERE id = $1 AND state <> $2", id, string(Enrolled))
	err = changed(r, err, ErrEnrolled)
	if !errors.Is(err, ErrEnrolled) {
		return err
	}
	var known int
	if err := tx.QueryRowContext(ctx, "SELECT COUNT(*) FROM devices WHERE id = $1", id).Scan(&known); err != nil {
		return err
	}
	if known == 0 {
		return ErrNotFound
	}
	return ErrEnrolled
}

// SetLabel gives a device the operator's name for it.
func (s *Store) SetLabel(ctx context.Context, id, label string, e Event) error {
	return s.changeDevice(ctx, id, e, "UPDATE devices SET label = $1 WHERE id = $2", label, id)
}

// AllowFormat lets a device format its blank volumes again, after a disk was replaced, until it has acknowledged a release
// that says so.
func (s *Store) AllowFormat(ctx context.Context, id string, e Event) error {
	return s.changeDevice(ctx, id, e, "UPDATE devices SET may_format = 1, orders = orders + 1, format_order = orders + 1 WHERE id = $1", id)
}

// RepairFloor orders a device whose rollback floor is destroyed, or shuts out its image, to write it anew. The order ends with
// the acknowledgement of a boot that had heard of it.
func (s *Store) RepairFloor(ctx context.Context, id string, floor int64, e Event) error {
	if floor < 0 {
		return fmt.Errorf("repair floor of %s: %d is negative", id, floor)
	}
	return s.changeDevice(ctx, id, e, "UPDATE devices SET repair_floor = $1, orders = orders + 1, repair_order = orders + 1 WHERE id = $2", floor, id)
}

// SetPolicy replaces what an operator decided about a device.
func (s *Store) SetPolicy(ctx context.Context, id string, p DevicePolicy, e Event) error {
	b, err := json.Marshal(p)
	if err != nil {
		return err
	}
	return s.changeDevice(ctx, id, e, "UPDATE devices SET policy = $1 WHERE id = $2", string(b), id)
}

func (s *Store) changeDevice(ctx context.Context, id string, e Event, query string, args ...any) error {
	return s.update(ctx, func(tx *sql.Tx) error {
		r, err := tx.ExecContext(ctx, query, args...)
		if err := changed(r, err, ErrNotFound); err != nil {
			return fmt.Errorf("change device %s: %w", id, err)
		}
		e.Device = id
		return s.append(ctx, tx, e)
	})
}

// SetAttempt notes what somebody who named this device tried. It is not audited: anyone can cause it.
func (s *Store) SetAttempt(ctx context.Context, id string, st Status) error {
	return s.update(ctx, func(tx *sql.Tx) error { return setAttempt(ctx, tx, id, st) })
}

func setAttempt(ctx context.Context, tx *sql.Tx, id string, st Status) error {
	b, err := json.Marshal(st)
	if err != nil {
		return err
	}
	if _, err := tx.ExecContext(ctx, "UPDATE devices SET attempt = $1 WHERE id = $2", string(b), id); err != nil {
		return fmt.Errorf("note attempt of %s: %w", id, err)
	}
	if st.Verdict != "deny" {
		return nil
	}
	// Of a device that is not there, none.
	if _, err := tx.ExecContext(ctx, `INSERT INTO denials (device, status) SELECT id, $1 FROM devices WHERE id = $2
		ON CONFLICT (device) DO UPDATE SET status = excluded.status`, string(b), id); err != nil {
		return fmt.Errorf("note denial of %s: %w", id, err)
	}
	return nil
}

// Versions returns the highest value seen for each name a device has proven.
func (s *Store) Versions(ctx context.Context, id string) (map[string]int64, error) {
	rows, err := s.db.QueryContext(ctx, "SELECT name, value FROM versions WHERE device = $1", id)
	if err != nil {
		return nil, fmt.Errorf("read versions of %s: %w", id, err)
	}
	defer rows.Close()
	out := map[string]int64{}
	for rows.Next() {
		var name string
		var v int64
		if err := rows.Scan(&name, &v); err != nil {
			return nil, err
		}
		out[name] = v
	}
	return out, rows.Err()
}

// RaiseVersions lifts the stored values to those given; none is ever lowered.
func (s *Store) RaiseVersions(ctx context.Context, id string, v map[string]int64, e Event) error {
	return s.update(ctx, func(tx *sql.Tx) error {
		if err := raiseVersions(ctx, tx, id, v); err != nil {
			return err
		}
		e.Device = id
		return s.append(ctx, tx, e)
	})
}

func raiseVersions(ctx context.Context, tx *sql.Tx, id string, v map[string]int64) error {
	for _, name := range slices.Sorted(maps.Keys(v)) {
		if _, err := tx.ExecContext(ctx, `INSERT INTO versions (device, name, value) VALUES ($1, $2, $3)
			ON CONFLICT (device, name) DO UPDATE SET value = excluded.value WHERE excluded.value > versions.value`,
			id, name, v[name]); err != nil {
			return fmt.Errorf("raise version %s of %s: %w", name, id, err)
		}
	}
	return nil
}

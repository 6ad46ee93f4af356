package floor

import (
	"encoding/hex"
	"errors"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/sealboot/sealboot/measure/golden"
)

var (
	keysA = [KeysetSize]byte{0xaa}
	keysB = [KeysetSize]byte{0xbb}
)

// base is a floor with everything in it.
func base() Record {
	return Record{
		RootVersion: 3, RootSHA256: [32]byte{1, 2, 3},
		Timestamp:    Role{20_261_123_014_400, keysA},
		Snapshot:     Role{7, keysA},
		Targets:      Role{5, keysA},
		ImageVersion: 42,
		Time:         time.Date(2026, 11, 23, 1, 44, 0, 0, time.UTC),
	}
}

func with(change func(*Record)) Record {
	r := base()
	change(&r)
	return r
}

func TestCheck(t *testing.T) {
	for _, tc := range []struct {
		name      string
		candidate Record
		want      error
	}{
		{"the same", base(), nil},
		{"image out of reach", with(func(r *Record) { r.ImageVersion = 1<<64 - 1 }), ErrJump},
		{"image as a date", with(func(r *Record) { r.ImageVersion = 20_261_123_014_400 }), nil},
		{"timestamp out of reach", with(func(r *Record) { r.Timestamp.Version = MaxVersion }), ErrJump},
		{"targets of other keys out of reach", with(func(r *Record) { r.Targets = Role{MaxVersion, keysB} }), ErrJump},
		{"nothing of TUF", Record{ImageVersion: 42}, nil},
		{"unversioned image", with(func(r *Record) { r.ImageVersion = 0 }), ErrRollback},
		{"older image", with(func(r *Record) { r.ImageVersion-- }), ErrRollback},
		{"newer image", with(func(r *Record) { r.ImageVersion++ }), nil},
		{"older root", with(func(r *Record) { r.RootVersion-- }), ErrRollback},
		{"another root", with(func(r *Record) { r.RootSHA256[0]++ }), ErrRollback},
		{"newer root", with(func(r *Record) { r.RootVersion++; r.RootSHA256[0]++ }), nil},
		{"older timestamp", with(func(r *Record) { r.Timestamp.Version-- }), ErrRollback},
		{"older snapshot", with(func(r *Record) { r.Snapshot.Version-- }), ErrRollback},
		{"older targets", with(func(r *Record) { r.Targets.Version-- }), ErrRollback},
		{"older targets of other keys", with(func(r *Record) { r.Targets = Role{1, keysB} }), nil},
		{"unknown targets", with(func(r *Record) { r.Targets = Role{0, keysA} }), nil},
		{"older time", with(func(r *Record) { r.Time = r.Time.Add(-time.Hour) }), nil},
	} {
		t.Run(tc.name, func(t *testing.T) {
			err := base().Check(tc.candidate)
			if !errors.Is(err, tc.want) {
				t.Errorf("Check() = %v; want %v", err, tc.want)
			}
		})
	}
}

func TestRaised(t *testing.T) {
	later := base().Time.Add(time.Hour)
	for _, tc := range []struct {
		name            string
		candidate, want Record
	}{
		{"nothing", Record{}, base()},
		{"the same", base(), base()},
		{"newer root", Record{RootVersion: 4, RootSHA256: [32]byte{9}},
			with(func(r *Record) { r.RootVersion, r.RootSHA256 = 4, [32]byte{9} })},
		{"older root", Record{RootVersion: 2, RootSHA256: [32]byte{9}}, base()},
		{"newer role", Record{Snapshot: Role{8, keysA}}, with(func(r *Record) { r.Snapshot.Version = 8 })},
		{"older role", Record{Snapshot: Role{6, keysA}}, base()},
		{"other keys", Record{Timestamp: Role{1, keysB}}, with(func(r *Record) { r.Timestamp = Role{1, keysB} })},
		{"newer image", Record{ImageVersion: 43}, with(func(r *Record) { r.ImageVersion = 43 })},
		{"older image", Record{ImageVersion: 41}, base()},
		{"later", Record{Time: later}, with(func(r *Record) { r.Time = later })},
		{"earlier", Record{Time: later.Add(-2 * time.Hour)}, base()},
	} {
		t.Run(tc.name, func(t *testing.T) {
			if diff := cmp.Diff(tc.want, base().Raised(tc.candidate)); diff != "" {
				t.Errorf("Raised (-want +got):\n%s", diff)
			}
		})
	}
}

func TestSlotGolden(t *testing.T) {
	b, err := encodeSlot(9, base())
	if err != nil {
		t.Fatal(err)
	}
	golden.Check(t, "testdata/slot.hex", hex.Dump(b))
	sequence, r, err := decodeSlot(b)
	if err != nil || sequence != 9 {
		t.Fatalf("decodeSlot() = %d, %v", sequence, err)
	}
	if diff := cmp.Diff(base(), r); diff != "" {
		t.Errorf("decodeSlot (-want +got):\n%s", diff)
	}
}

func TestSlotRefuses(t *testing.T) {
	for name, r := range map[string]Record{
		"version": with(func(r *Record) { r.Targets.Version = MaxVersion + 1 }),
		"time":    with(func(r *Record) { r.Time = time.Unix(-1, 0) }),
	} {
		if _, err := encodeSlot(1, r); err == nil {
			t.Errorf("%s: encoded what does not fit", name)
		}
	}
}

func TestEveryFlippedBitIsSeen(t *testing.T) {
	good, err := encodeSlot(9, base())
	if err != nil {
		t.Fatal(err)
	}
	for i := range len(good) * 8 {
		b := append([]byte(nil), good...)
		b[i/8] ^= 1 << (i % 8)
		if _, _, err := decodeSlot(b); !errors.Is(err, errSlot) {
			t.Fatalf("bit %d: error = %v", i, err)
		}
	}
}

func TestNewest(t *testing.T) {
	slot := func(sequence uint32, version uint64) []byte {
		b, err := encodeSlot(sequence, Record{ImageVersion: version})
		if err != nil {
			t.Fatal(err)
		}
		return b
	}
	bad := make([]byte, slotSize)
	for _, tc := range []struct {
		name string
		a, b []byte
		want uint64 // image version; 0 is ErrTorn
		slot int
	}{
		{"first", slot(8, 1), slot(7, 2), 1, 0},
		{"second", slot(8, 1), slot(9, 2), 2, 1},
		{"first torn", bad, slot(7, 2), 2, 1},
		{"second torn", slot(8, 1), bad, 1, 0},
		{"both torn", bad, bad, 0, -1},
		{"sequence 0", slot(0, 5), bad, 0, -1},
		{"begun anew, first", slot(1, 1), slot(1<<32-1, 2), 1, 0},
		{"begun anew, second", slot(1<<32-1, 1), slot(1, 2), 2, 1},
	} {
		t.Run(tc.name, func(t *testing.T) {
			r, slot, _, err := newest(append(append([]byte(nil), tc.a...), tc.b...))
			if r.ImageVersion != tc.want || slot != tc.slot || errors.Is(err, ErrTorn) != (tc.want == 0) {
				t.Errorf("newest() = version %d, slot %d, %v", r.ImageVersion, slot, err)
			}
		})
	}
}

func FuzzDecodeSlot(f *testing.F) {
	b, err := encodeSlot(9, base())
	if err != nil {
		f.Fatal(err)
	}
	f.Add(b)
	f.Fuzz(func(t *testing.T, b []byte) {
		sequence, r, err := decodeSlot(b)
		if err != nil {
			return
		}
		again, err := encodeSlot(sequence, r)
		if err != nil || string(again) != string(b) {
			t.Errorf("encodeSlot(decodeSlot(%x)) = %x, %v", b, again, err)
		}
	})
}

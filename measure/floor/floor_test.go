package floor

import (
	"encoding/binary"
	"errors"
	"io"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-tpm/tpm2"

	"github.com/sealboot/sealboot/measure/pcr"
	"github.com/sealboot/sealboot/measure/tpm"
	"github.com/sealboot/sealboot/measure/tpm/tpmtest"
)

func bankSets() [][]tpm2.TPMAlgID {
	return [][]tpm2.TPMAlgID{
		{tpm2.TPMAlgSHA256},
		{tpm2.TPMAlgSHA256, tpm2.TPMAlgSHA384},
		{tpm2.TPMAlgSHA384},
	}
}

// provisioned starts a TPM that has a floor.
func provisioned(t *testing.T, banks ...tpm2.TPMAlgID) (*tpmtest.TPM, Store) {
	t.Helper()
	tp := tpmtest.Start(t, tpmtest.Options{Banks: banks})
	s := Store{TPM: tp.TPM}
	if err := s.Provision(t.Context(), base()); err != nil {
		t.Fatal(err)
	}
	return tp, s
}

// bootOS measures something, as the loader does before it starts a system.
func bootOS(t *testing.T, tp *tpm.TPM) {
	t.Helper()
	banks, err := tp.Banks(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	digests := make(map[tpm2.TPMAlgID][]byte)
	for _, bank := range banks {
		digests[bank] = pcr.Zero(bank)
	}
	if err := tp.Extend(t.Context(), 12, digests); err != nil {
		t.Fatal(err)
	}
}

func expect(t *testing.T, s Store, want Record) {
	t.Helper()
	got, err := s.Read(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("floor (-want +got):\n%s", diff)
	}
}

func TestLoaderRaises(t *testing.T) {
	for _, banks := range bankSets() {
		tp, s := provisioned(t, banks...)
		expect(t, s, base())
		want := base()
		for range 3 { // both slots, and again
			want.ImageVersion++
			got, err := s.Raise(t.Context(), want)
			if err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff(want, got); diff != "" {
				t.Errorf("Raise (-want +got):\n%s", diff)
			}
			expect(t, s, want)
		}
		tp.Reset(t)
		expect(t, s, want)
		if _, err := s.Raise(t.Context(), base()); !errors.Is(err, ErrRollback) {
			t.Errorf("Raise() to an older candidate: %v; want ErrRollback", err)
		}
		expect(t, s, want)
	}
}

// TestSequenceEnds plays somebody with a medium of his own, who leaves a floor of the highest sequence number. No order
// of attestd's repairs a floor that reads well, so the loader has to be able to go on from it.
func TestSequenceEnds(t *testing.T) {
	_, s := provisioned(t)
	slot, err := encodeSlot(1<<32-1, base())
	if err != nil {
		t.Fatal(err)
	}
	if err := s.write(t.Context(), 1, slot); err != nil {
		t.Fatal(err)
	}
	if _, err := s.Raise(t.Context(), base()); err != nil {
		t.Errorf("Raise() to the same: %v", err)
	}
	want := base()
	for range 3 {
		want.ImageVersion++
		if _, err := s.Raise(t.Context(), want); err != nil {
			t.Fatal(err)
		}
		expect(t, s, want)
	}
}

func TestRaiseToTheSameWritesNothing(t *testing.T) {
	tp, s := provisioned(t)
	before, err := tp.ReadNV(t.Context(), Index)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := s.Raise(t.Context(), base()); err != nil {
		t.Fatal(err)
	}
	after, err := tp.ReadNV(t.Context(), Index)
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(before, after); diff != "" {
		t.Errorf("the index was written:\n%s", diff)
	}
}

func TestProvisionOnlyOnce(t *testing.T) {
	_, s := provisioned(t)
	if err := s.Provision(t.Context(), Record{}); !errors.Is(err, ErrExists) {
		t.Errorf("second Provision() error = %v; want ErrExists", err)
	}
	expect(t, s, base())
}

func TestMissing(t *testing.T) {
	s := Store{TPM: tpmtest.Start(t, tpmtest.Options{}).TPM}
	if _, err := s.Read(t.Context()); !errors.Is(err, ErrMissing) {
		t.Errorf("Read() error = %v; want ErrMissing", err)
	}
	if _, err := s.Raise(t.Context(), base()); !errors.Is(err, ErrMissing) {
		t.Errorf("Raise() error = %v; want ErrMissing", err)
	}
	if err := s.Lock(t.Context()); !errors.Is(err, ErrMissing) {
		t.Errorf("Lock() error = %v; want ErrMissing", err)
	}
}

// TestOSCannotWrite plays an operating system that has all owner rights.
func TestOSCannotWrite(t *testing.T) {
	for _, banks := range bankSets() {
		tp, s := provisioned(t, banks...)
		bootOS(t, tp.TPM)
		newer := with(func(r *Record) { r.ImageVersion++ })
		for name, change := range map[string]func() error{
			"raise":     func() error { _, err := s.Raise(t.Context(), newer); return err },
			"lock":      func() error { return s.Lock(t.Context()) },
			"repair":    func() error { return s.Repair(t.Context(), Record{}) },
			"provision": func() error { return s.Provision(t.Context(), Record{}) },
		} {
			if err := change(); !errors.Is(err, ErrClosed) {
				t.Errorf("%s by an OS: %v; want ErrClosed", name, err)
			}
		}
		if err := writeWith(t, tp.TPM, owner(), Record{}); err == nil {
			t.Error("the owner wrote the index")
		}
		_, name, err := tp.NVPublic(t.Context(), Index)
		if err != nil {
			t.Fatal(err)
		}
		if err := writeWith(t, tp.TPM, tpm2.AuthHandle{Handle: Index, Name: name, Auth: tpm2.PasswordAuth(nil)}, Record{}); err == nil {
			t.Error("the index's own authorization wrote it")
		}
		expect(t, s, base())
		tp.Reset(t)
		expect(t, s, base())
	}
}

// TestRedefinition plays an operating system that replaces the index.
func TestRedefinition(t *testing.T) {
	tp, s := provisioned(t)
	bootOS(t, tp.TPM)
	undefine(t, tp.TPM)
	public, err := s.public(t.Context())
	if err != nil {
		t.Fatal(err)
	}

	define(t, tp.TPM, *public)
	if _, err := s.Read(t.Context()); !errors.Is(err, ErrUninitialised) {
		t.Errorf("Read() of the same index, defined anew: %v; want ErrUninitialised", err)
	}
	if err := s.write(t.Context(), 0, make([]byte, slotSize)); !errors.Is(err, ErrClosed) {
		t.Errorf("write to it: %v; want ErrClosed", err)
	}
	undefine(t, tp.TPM)

	for name, change := range map[string]func(*tpm2.TPMSNVPublic){
		"owner write": func(p *tpm2.TPMSNVPublic) { p.Attributes.OwnerWrite = true },
		"no policy":   func(p *tpm2.TPMSNVPublic) { p.AuthPolicy.Buffer = nil; p.Attributes.OwnerWrite = true },
		"no lock":     func(p *tpm2.TPMSNVPublic) { p.Attributes.WriteSTClear = false; p.Attributes.OwnerWrite = true },
		"larger":      func(p *tpm2.TPMSNVPublic) { p.DataSize++; p.Attributes.OwnerWrite = true },
	} {
		other := *public
		change(&other)
		define(t, tp.TPM, other)
		if err := writeWith(t, tp.TPM, owner(), Record{}); err != nil {
			t.Fatal(err)
		}
		for range 2 { // in this boot, and in the next
			if _, err := s.Read(t.Context()); !errors.Is(err, ErrRedefined) {
				t.Errorf("%s: Read() error = %v; want ErrRedefined", name, err)
			}
			if _, err := s.Raise(t.Context(), base()); !errors.Is(err, ErrRedefined) {
				t.Errorf("%s: Raise() error = %v; want ErrRedefined", name, err)
			}
			tp.Reset(t)
		}
		undefine(t, tp.TPM)
	}
	if _, err := s.Read(t.Context()); !errors.Is(err, ErrMissing) {
		t.Errorf("Read() of no index: %v; want ErrMissing", err)
	}
}

func TestRepair(t *testing.T) {
	want := with(func(r *Record) { r.ImageVersion = 1 })
	for name, damage := range map[string]func(*testing.T, *tpmtest.TPM, Store){
		"intact":  func(*testing.T, *tpmtest.TPM, Store) {},
		"missing": func(t *testing.T, tp *tpmtest.TPM, _ Store) { undefine(t, tp.TPM) },
		"defined anew": func(t *testing.T, tp *tpmtest.TPM, s Store) {
			public, err := s.public(t.Context())
			if err != nil {
				t.Fatal(err)
			}
			undefine(t, tp.TPM)
			define(t, tp.TPM, *public)
		},
		"torn": tear,
	} {
		t.Run(name, func(t *testing.T) {
			tp, s := provisioned(t)
			damage(t, tp, s)
			if err := s.Repair(t.Context(), want); err != nil {
				t.Fatal(err)
			}
			expect(t, s, want)
		})
	}
}

// tear damages both slots, which no power failure does.
func tear(t *testing.T, _ *tpmtest.TPM, s Store) {
	t.Helper()
	for slot := range slots {
		if err := s.write(t.Context(), slot, make([]byte, slotSize)); err != nil {
			t.Fatal(err)
		}
	}
	if _, err := s.Read(t.Context()); !errors.Is(err, ErrTorn) {
		t.Errorf("Read() error = %v; want ErrTorn", err)
	}
}

func TestLock(t *testing.T) {
	tp, s := provisioned(t)
	for range 2 {
		if err := s.Lock(t.Context()); err != nil && !errors.Is(err, ErrClosed) {
			t.Fatal(err)
		}
	}
	newer := with(func(r *Record) { r.ImageVersion++ })
	if _, err := s.Raise(t.Context(), newer); !errors.Is(err, ErrClosed) {
		t.Errorf("Raise() of a locked floor: %v; want ErrClosed", err)
	}
	expect(t, s, base())
	tp.Reset(t)
	if _, err := s.Raise(t.Context(), newer); err != nil {
		t.Errorf("Raise() after a reset: %v", err)
	}
	expect(t, s, newer)
}

// powerFailure is a TPM that loses its power in the middle of an NV_Write: the
// second half of the data is lost, and so is the response, unless silent.
type powerFailure struct {
	*tpm.TPM
	t        *testing.T
	silent   bool
	response []byte
}

var errPower = errors.New("power failure")

func (p *powerFailure) Write(b []byte) (int, error) {
	response, err := p.Send(b)
	if err != nil {
		return 0, err
	}
	p.response = response
	if binary.BigEndian.Uint32(b[6:]) != uint32(tpm2.TPMCCNVWrite) {
		return len(b), nil
	}
	slot := int(binary.BigEndian.Uint16(b[len(b)-2:])) / slotSize // the command ends with the offset
	content, err := p.ReadNV(p.t.Context(), Index)
	if err != nil {
		return 0, err
	}
	torn := content[slot*slotSize : (slot+1)*slotSize]
	clear(torn[slotSize/2:])
	if err := (Store{TPM: p.TPM}).write(p.t.Context(), slot, torn); err != nil {
		return 0, err
	}
	if p.silent {
		return len(b), nil
	}
	return 0, errPower
}

func (p *powerFailure) Read(b []byte) (int, error) {
	if len(p.response) == 0 {
		return 0, io.EOF
	}
	n := copy(b, p.response)
	p.response = p.response[n:]
	return n, nil
}

func TestPowerFailure(t *testing.T) {
	tp, s := provisioned(t)
	newer := with(func(r *Record) { r.ImageVersion++ })
	for range 3 { // whatever fails, and however often, the old floor is there
		failing := Store{TPM: tpm.New("failing", &powerFailure{TPM: tp.TPM, t: t})}
		if _, err := failing.Raise(t.Context(), newer); !errors.Is(err, errPower) {
			t.Fatalf("Raise() error = %v; want the power failure", err)
		}
		tp.Reset(t)
		expect(t, s, base())
	}
	if _, err := s.Raise(t.Context(), newer); err != nil {
		t.Fatal(err)
	}
	expect(t, s, newer)
}

// A TPM that says it has written, and has not.
func TestSilentLossIsSeen(t *testing.T) {
	tp, s := provisioned(t)
	lossy := Store{TPM: tpm.New("lossy", &powerFailure{TPM: tp.TPM, t: t, silent: true})}
	if _, err := lossy.Raise(t.Context(), with(func(r *Record) { r.ImageVersion++ })); !errors.Is(err, ErrTorn) {
		t.Errorf("Raise() error = %v; want ErrTorn", err)
	}
	expect(t, s, base())
}

func undefine(t *testing.T, tp *tpm.TPM) {
	t.Helper()
	_, name, err := tp.NVPublic(t.Context(), Index)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := (tpm2.NVUndefineSpace{AuthHandle: owner(),
		NVIndex: tpm2.NamedHandle{Handle: Index, Name: name}}).Execute(tp); err != nil {
		t.Fatal(err)
	}
}

func define(t *testing.T, tp *tpm.TPM, public tpm2.TPMSNVPublic) {
	t.Helper()
	if _, err := (tpm2.NVDefineSpace{AuthHandle: owner(), PublicInfo: tpm2.New2B(public)}).Execute(tp); err != nil {
		t.Fatal(err)
	}
}

func writeWith(t *testing.T, tp *tpm.TPM, auth tpm2.AuthHandle, r Record) error {
	t.Helper()
	slot, err := encodeSlot(99, r)
	if err != nil {
		t.Fatal(err)
	}
	_, name, err := tp.NVPublic(t.Context(), Index)
	if err != nil {
		t.Fatal(err)
	}
	_, err = tpm2.NVWrite{AuthHandle: auth, NVIndex: tpm2.NamedHandle{Handle: Index, Name: name},
		Data: tpm2.TPM2BMaxNVBuffer{Buffer: slot}}.Execute(tp)
	return err
}

package floor

import (
	"encoding/binary"
	"errors"
	"io"
	"testing"

	"github.com/google/go-tpm/tpm2"

	"github.com/sealboot/sealboot/measure/tpm"
	"github.com/sealboot/sealboot/measure/tpm/tpmtest"
)

// hostile is what somebody with a medium of his own, and the TPM's owner rights, puts in place of the floor.
type hostile struct {
	change    func(*tpm2.TPMSNVPublic)
	auth      []byte         // the index's authorization value, which its Name does not cover
	hierarchy tpm2.TPMHandle // that defines it; 0 is the owner's
	then      func(testing.TB, *tpmtest.TPM)
	want      error
	stuck     bool // cannot be removed again
}

// put defines the index as h says, while the image PCR is zero.
func (h hostile) put(t testing.TB, tp *tpmtest.TPM, s Store) {
	t.Helper()
	public, err := s.public(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if h.change != nil {
		h.change(public)
	}
	by := owner()
	if h.hierarchy != 0 {
		by.Handle = h.hierarchy
	}
	if _, err := (tpm2.NVDefineSpace{AuthHandle: by, Auth: tpm2.TPM2BAuth{Buffer: h.auth}, PublicInfo: tpm2.New2B(*public)}).Execute(tp); err != nil {
		t.Fatalf("define: %v", err)
	}
	if h.then != nil {
		h.then(t, tp)
	}
}

// indexNow is the index as a command names it, authorised by s.
func indexNow(t testing.TB, tp *tpmtest.TPM, s tpm2.Session) tpm2.AuthHandle {
	t.Helper()
	_, name, err := tp.NVPublic(t.Context(), Index)
	if err != nil {
		t.Fatal(err)
	}
	return tpm2.AuthHandle{Handle: Index, Name: name, Auth: s}
}

// lockout has the TPM refuse whatever is protected against dictionary attacks.
func lockout(t testing.TB, tp *tpmtest.TPM) {
	t.Helper()
	for range 64 {
		index := indexNow(t, tp, tpm2.PasswordAuth([]byte("wrong")))
		_, err := tpm2.NVRead{AuthHandle: index, NVIndex: tpm2.NamedHandle{Handle: Index, Name: index.Name}, Size: 1}.Execute(tp)
		if errors.Is(err, tpm2.TPMRCLockout) {
			return
		}
	}
	t.Fatal("the TPM does not lock us out")
}

// written writes a floor by the policy, as the loader would.
func written(t testing.TB, tp *tpmtest.TPM) {
	t.Helper()
	s := Store{TPM: tp.TPM}
	slot, err := encodeSlot(99, Record{})
	if err != nil {
		t.Fatal(err)
	}
	index := indexNow(t, tp, s.writer(t.Context()))
	if _, err := (tpm2.NVWrite{AuthHandle: index, NVIndex: tpm2.NamedHandle{Handle: Index, Name: index.Name},
		Data: tpm2.TPM2BMaxNVBuffer{Buffer: slot}}).Execute(tp); err != nil {
		t.Fatalf("write: %v", err)
	}
}

func kind(nt tpm2.TPMNT, size uint16) func(*tpm2.TPMSNVPublic) {
	return func(p *tpm2.TPMSNVPublic) { p.Attributes.NT, p.DataSize = nt, size }
}

// TestWhateverAnOwnerDoes: an index that is not the floor as we left it is recognised as such, in the same boot and in
// later ones, and repaired on an order.
func TestWhateverAnOwnerDoes(t *testing.T) {
	nameAlg := func(alg tpm2.TPMAlgID) func(*tpm2.TPMSNVPublic) {
		return func(p *tpm2.TPMSNVPublic) { p.NameAlg, p.AuthPolicy.Buffer = alg, nil; p.Attributes.OwnerWrite = true }
	}
	for name, h := range map[string]hostile{
		"never written":             {want: ErrUninitialised},
		"auth value, never written": {auth: []byte("secret"), want: ErrUninitialised},
		"auth value":                {auth: []byte("secret"), then: written, want: ErrRedefined},
		"auth value, protected":     {auth: []byte("secret"), change: func(p *tpm2.TPMSNVPublic) { p.Attributes.NoDA = false }, then: written, want: ErrRedefined},
		"auth value, locked out": {auth: []byte("secret"), change: func(p *tpm2.TPMSNVPublic) { p.Attributes.NoDA = false }, want: ErrRedefined,
			then: func(t testing.TB, tp *tpmtest.TPM) { written(t, tp); lockout(t, tp) }},
		"not readable by auth": {change: func(p *tpm2.TPMSNVPublic) { p.Attributes.AuthRead = false }, then: written, want: ErrRedefined},
		"readable by policy":   {change: func(p *tpm2.TPMSNVPublic) { p.Attributes.PolicyRead = true }, then: written, want: ErrRedefined},
		"read locked": {change: func(p *tpm2.TPMSNVPublic) { p.Attributes.ReadSTClear = true }, want: ErrRedefined,
			then: func(t testing.TB, tp *tpmtest.TPM) {
				written(t, tp)
				index := indexNow(t, tp, tpm2.PasswordAuth(nil))
				if _, err := (tpm2.NVReadLock{AuthHandle: index, NVIndex: tpm2.NamedHandle{Handle: Index, Name: index.Name}}).Execute(tp); err != nil {
					t.Fatal(err)
				}
			}},
		"write locked for ever": {change: func(p *tpm2.TPMSNVPublic) { p.Attributes.WriteDefine = true }, want: ErrRedefined,
			then: func(t testing.TB, tp *tpmtest.TPM) {
				written(t, tp)
				index := indexNow(t, tp, Store{TPM: tp.TPM}.writer(t.Context()))
				if _, err := (tpm2.NVWriteLock{AuthHandle: index, NVIndex: tpm2.NamedHandle{Handle: Index, Name: index.Name}}).Execute(tp); err != nil {
					t.Fatal(err)
				}
			}},
		"lost with the power": {change: func(p *tpm2.TPMSNVPublic) { p.Attributes.ClearSTClear = true }, then: written, want: ErrRedefined},
		"kept in RAM":         {change: func(p *tpm2.TPMSNVPublic) { p.Attributes.Orderly = true }, then: written, want: ErrRedefined},
		"lockable by anyone":  {change: func(p *tpm2.TPMSNVPublic) { p.Attributes.GlobalLock = true }, then: written, want: ErrRedefined},
		"empty":               {change: func(p *tpm2.TPMSNVPublic) { p.DataSize = 0 }, want: ErrRedefined},
		"one byte":            {change: func(p *tpm2.TPMSNVPublic) { p.DataSize = 1 }, want: ErrRedefined},
		"large":               {change: func(p *tpm2.TPMSNVPublic) { p.DataSize = 2000 }, then: written, want: ErrRedefined},
		"another policy":      {change: func(p *tpm2.TPMSNVPublic) { p.AuthPolicy.Buffer = make([]byte, 32) }, want: ErrRedefined},
		"named by SHA-384":    {change: nameAlg(tpm2.TPMAlgSHA384), want: ErrRedefined},
		"named by SHA-1":      {change: nameAlg(tpm2.TPMAlgSHA1), want: ErrRedefined},
		"a counter":           {change: kind(tpm2.TPMNTCounter, 8), want: ErrRedefined},
		"bits":                {change: kind(tpm2.TPMNTBits, 8), want: ErrRedefined},
		"a PCR":               {change: kind(tpm2.TPMNTExtend, 32), want: ErrRedefined},
		"a PIN that fails":    {change: kind(tpm2.TPMNTPinFail, 8), auth: []byte("pin"), want: ErrRedefined},
		"a PIN that passes":   {change: func(p *tpm2.TPMSNVPublic) { kind(tpm2.TPMNTPinPass, 8)(p); p.Attributes.NoDA = false }, want: ErrRedefined},
		"the platform's":      {hierarchy: tpm2.TPMRHPlatform, change: func(p *tpm2.TPMSNVPublic) { p.Attributes.PlatformCreate = true }, then: written, want: ErrRedefined},
		"the platform's, kept": {hierarchy: tpm2.TPMRHPlatform, stuck: true, want: ErrRedefined,
			change: func(p *tpm2.TPMSNVPublic) { p.Attributes.PlatformCreate, p.Attributes.PolicyDelete = true, true }},
	} {
		t.Run(name, func(t *testing.T) {
			tp, s := provisioned(t)
			undefine(t, tp.TPM)
			h.put(t, tp, s)
			for _, start := range []func(testing.TB){nil, tp.Restart, tp.Reset} {
				if start != nil {
					start(t)
				}
				if _, err := s.Read(t.Context()); !errors.Is(err, h.want) || !Destroyed(err) {
					t.Fatalf("Read() = %v; want %v, and destroyed", err, h.want)
				}
				if err := s.Provision(t.Context(), base()); !errors.Is(err, ErrExists) {
					t.Errorf("Provision() = %v; want ErrExists", err)
				}
				if _, err := s.Raise(t.Context(), base()); !errors.Is(err, h.want) {
					t.Errorf("Raise() = %v; want %v", err, h.want)
				}
			}
			err := s.Repair(t.Context(), base())
			if h.stuck {
				if !errors.Is(err, ErrPermanent) {
					t.Errorf("Repair() = %v; want ErrPermanent", err)
				}
				return
			}
			if err != nil {
				t.Fatal(err)
			}
			expect(t, s, base())
			if _, err := s.Raise(t.Context(), with(func(r *Record) { r.ImageVersion++ })); err != nil {
				t.Errorf("Raise() after the repair: %v", err)
			}
		})
	}
}

// TestOwnFloorIsNotDestroyed: what passes with the next start of the TPM, or is the TPM's and not the index's, is no
// reason to write a floor anew.
func TestOwnFloorIsNotDestroyed(t *testing.T) {
	t.Run("locked until the next start", func(t *testing.T) {
		tp, s := provisioned(t)
		if err := s.Lock(t.Context()); err != nil {
			t.Fatal(err)
		}
		expect(t, s, base())
		tp.Restart(t)
		if _, err := s.Raise(t.Context(), with(func(r *Record) { r.ImageVersion++ })); err != nil {
			t.Errorf("Raise() after a restart: %v", err)
		}
	})
	t.Run("the TPM does not answer", func(t *testing.T) {
		tp, s := provisioned(t)
		for _, code := range []tpm2.TPMRC{tpm2.TPMRCFailure, tpm2.TPMRCNVUnavailable, tpm2.TPMRCMemory, tpm2.TPMRCLockout, tpm2.TPMRCInitialize} {
			broken := Store{TPM: tpm.New("broken", &refusing{TPM: tp.TPM, command: tpm2.TPMCCNVRead, code: code})}
			if _, err := broken.Read(t.Context()); !errors.Is(err, code) || Destroyed(err) {
				t.Errorf("Read() = %v; want %v, and not destroyed", err, code)
			}
		}
		expect(t, s, base())
	})
}

// TestOwnerHasPassword: somebody gave the TPM's owner a password. No order can be carried out then, and the error says
// what can be done.
func TestOwnerHasPassword(t *testing.T) {
	tp, s := provisioned(t)
	if _, err := (tpm2.HierarchyChangeAuth{AuthHandle: owner(), NewAuth: tpm2.TPM2BAuth{Buffer: []byte("secret")}}).Execute(tp); err != nil {
		t.Fatal(err)
	}
	expect(t, s, base())
	if err := s.Repair(t.Context(), Record{}); !errors.Is(err, ErrOwner) || Destroyed(err) {
		t.Errorf("Repair() = %v; want ErrOwner", err)
	}
	expect(t, s, base())
	empty := Store{TPM: tpmtest.Start(t, tpmtest.Options{Identity: 9}).TPM}
	if _, err := (tpm2.HierarchyChangeAuth{AuthHandle: owner(), NewAuth: tpm2.TPM2BAuth{Buffer: []byte("secret")}}).Execute(empty.TPM); err != nil {
		t.Fatal(err)
	}
	if err := empty.Provision(t.Context(), base()); !errors.Is(err, ErrOwner) {
		t.Errorf("Provision() = %v; want ErrOwner", err)
	}
}

// TestUnknownNameAlgorithm: a TPM can know digests that we do not, such as SM3, and an index can be named by one.
func TestUnknownNameAlgorithm(t *testing.T) {
	tp, s := provisioned(t)
	foreign := Store{TPM: tpm.New("foreign", &refusing{TPM: tp.TPM, command: tpm2.TPMCCNVReadPublic, nameAlg: tpm2.TPMAlgSM3256})}
	if _, err := foreign.Read(t.Context()); !errors.Is(err, ErrRedefined) || !Destroyed(err) {
		t.Errorf("Read() = %v; want ErrRedefined", err)
	}
	// The index is removed, and the emulator goes on to lie of the new one.
	if err := foreign.Repair(t.Context(), base()); !errors.Is(err, tpm.ErrNVAlgorithm) {
		t.Errorf("Repair() = %v; want ErrNVAlgorithm of the new index", err)
	}
	if _, err := s.Read(t.Context()); !errors.Is(err, ErrUninitialised) {
		t.Errorf("Read() then = %v; want ErrUninitialised", err)
	}
}

// refusing is a TPM that answers one command with an error, or with another name algorithm.
type refusing struct {
	*tpm.TPM
	command  tpm2.TPMCC
	code     tpm2.TPMRC
	nameAlg  tpm2.TPMAlgID
	response []byte
}

func (r *refusing) Write(b []byte) (int, error) {
	response, err := r.Send(b)
	if err != nil {
		return 0, err
	}
	if tpm2.TPMCC(binary.BigEndian.Uint32(b[6:])) == r.command {
		if r.code != 0 {
			response = binary.BigEndian.AppendUint16(nil, uint16(tpm2.TPMSTNoSessions))
			response = binary.BigEndian.AppendUint32(response, 10)
			response = binary.BigEndian.AppendUint32(response, uint32(r.code))
		} else {
			const nameAlg = 10 + 2 + 4 // behind the header, the size of the public area, and the index
			binary.BigEndian.PutUint16(response[nameAlg:], uint16(r.nameAlg))
		}
	}
	r.response = response
	return len(b), nil
}

func (r *refusing) Read(b []byte) (int, error) {
	if len(r.response) == 0 {
		return 0, io.EOF
	}
	n := copy(b, r.response)
	r.response = r.response[n:]
	return n, nil
}

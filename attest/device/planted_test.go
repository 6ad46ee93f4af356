package device_test

import (
	"context"
	"crypto/rand"
	"crypto/x509"
	"math/big"
	"slices"
	"testing"
	"time"

	"github.com/google/go-tpm/tpm2"

	"github.com/sealboot/sealboot/attest/keys"
	"github.com/sealboot/sealboot/attest/wire"
	"github.com/sealboot/sealboot/measure/tpm/tpmtest"
)

var asOwner = tpm2.AuthHandle{Handle: tpm2.TPMRHOwner, Auth: tpm2.PasswordAuth(nil)}

// plantEK has an OS with owner rights leave another key of a kind's template at its persistent handle. It returns its hash.
func plantEK(t *testing.T, m *machine, kind keys.EK) (*tpm2.TPMTPublic, string) {
	t.Helper()
	template := kind.Template
	if template.Type == tpm2.TPMAlgRSA {
		template.Unique = tpm2.NewTPMUPublicID(tpm2.TPMAlgRSA, &tpm2.TPM2BPublicKeyRSA{Buffer: []byte("another")})
	} else {
		template.Unique = tpm2.NewTPMUPublicID(tpm2.TPMAlgECC, &tpm2.TPMSECCPoint{X: tpm2.TPM2BECCParameter{Buffer: []byte("another")}})
	}
	made, err := tpm2.CreatePrimary{
		PrimaryHandle: tpm2.AuthHandle{Handle: tpm2.TPMRHEndorsement, Auth: tpm2.PasswordAuth(nil)}, InPublic: tpm2.New2B(template),
	}.Execute(m)
	if err != nil {
		t.Fatal(err)
	}
	defer tpm2.FlushContext{FlushHandle: made.ObjectHandle}.Execute(m) //nolint:errcheck // a test's TPM
	object := tpm2.NamedHandle{Handle: made.ObjectHandle, Name: made.Name}
	if old, err := (tpm2.ReadPublic{ObjectHandle: kind.Handle}).Execute(m); err == nil {
		if _, err := (tpm2.EvictControl{Auth: asOwner, ObjectHandle: tpm2.NamedHandle{Handle: kind.Handle, Name: old.Name}, PersistentHandle: kind.Handle}).Execute(m); err != nil {
			t.Fatal(err)
		}
	}
	if _, err := (tpm2.EvictControl{Auth: asOwner, ObjectHandle: object, PersistentHandle: kind.Handle}).Execute(m); err != nil {
		t.Fatal(err)
	}
	public, err := made.OutPublic.Contents()
	if err != nil {
		t.Fatal(err)
	}
	return public, wire.KeyID(tpm2.Marshal(*public))
}

// plantCertificate has it write a certificate of its own for a key, where the maker's would be.
func plantCertificate(t *testing.T, m *machine, kind keys.EK, public *tpm2.TPMTPublic) {
	t.Helper()
	key, err := tpm2.Pub(*public)
	if err != nil {
		t.Fatal(err)
	}
	issuer := &x509.Certificate{SerialNumber: big.NewInt(1), NotAfter: time.Now().AddDate(1, 0, 0)}
	der, err := x509.CreateCertificate(rand.Reader, issuer, issuer, key, newKey(t))
	if err != nil {
		t.Fatal(err)
	}
	plantNV(t, m, kind.CertIndex, der)
}

// plantNV has it define and write an NV index.
func plantNV(t *testing.T, m *machine, index tpm2.TPMHandle, data []byte) {
	t.Helper()
	if _, err := (tpm2.NVDefineSpace{AuthHandle: asOwner, PublicInfo: tpm2.New2B(tpm2.TPMSNVPublic{
		NVIndex: index, NameAlg: tpm2.TPMAlgSHA256, DataSize: uint16(len(data)),
		Attributes: tpm2.TPMANV{OwnerWrite: true, OwnerRead: true, AuthRead: true, NoDA: true},
	})}).Execute(m); err != nil {
		t.Fatal(err)
	}
	for offset := 0; offset < len(data); offset += 512 {
		_, name, err := m.NVPublic(t.Context(), index)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := (tpm2.NVWrite{AuthHandle: asOwner, NVIndex: tpm2.NamedHandle{Handle: index, Name: name},
			Data: tpm2.TPM2BMaxNVBuffer{Buffer: data[offset:min(offset+512, len(data))]}, Offset: uint16(offset)}).Execute(m); err != nil {
			t.Fatal(err)
		}
	}
}

// createdEK is the hash of the key that the TPM makes from a kind's template.
func createdEK(t *testing.T, m *machine, kind keys.EK) (*tpm2.TPMTPublic, string) {
	t.Helper()
	made, err := tpm2.CreatePrimary{
		PrimaryHandle: tpm2.AuthHandle{Handle: tpm2.TPMRHEndorsement, Auth: tpm2.PasswordAuth(nil)}, InPublic: tpm2.New2B(kind.Template),
	}.Execute(m)
	if err != nil {
		t.Fatal(err)
	}
	defer tpm2.FlushContext{FlushHandle: made.ObjectHandle}.Execute(m) //nolint:errcheck // a test's TPM
	public, err := made.OutPublic.Contents()
	if err != nil {
		t.Fatal(err)
	}
	return public, wire.KeyID(tpm2.Marshal(*public))
}

// TestPlantedEK: what an OS with owner rights leaves at the persistent handles, and in the NV indices of the
// certificates, never becomes the identity, nor one of those that are enrolled.
func TestPlantedEK(t *testing.T) {
	for name, opts := range map[string]tpmtest.Options{
		"no EK certificate": {EK: tpmtest.NoEK, Identity: 41},
		"RSA-2048":          {EK: tpmtest.RSA2048, Identity: 41},
		"P-256":             {EK: tpmtest.P256, Identity: 41},
		"P-384":             {EK: tpmtest.P384, Identity: 41},
	} {
		t.Run(name, func(t *testing.T) {
			ctx := context.Background()
			m := start(t, opts)
			s := newSite(t, "shop-1")
			want, err := s.client(m).EK(ctx)
			if err != nil {
				t.Fatal(err)
			}
			all, err := s.client(m).EKs(ctx)
			if err != nil {
				t.Fatal(err)
			}
			check := func(what string) {
				t.Helper()
				if got, err := s.client(m).EK(ctx); err != nil || got != want {
					t.Errorf("%s: the identity is %.16s, %v; want %.16s", what, got, err, want)
				}
				if got, err := s.client(m).EKs(ctx); err != nil || !slices.Equal(got, all) {
					t.Errorf("%s: the identities are %.16s, %v; want %.16s", what, got, err, all)
				}
			}
			var planted []*tpm2.TPMTPublic
			for _, kind := range keys.EKs() {
				_, real := createdEK(t, m, kind)
				public, id := plantEK(t, m, kind)
				if id == real {
					t.Fatal("the planted key is the TPM's own")
				}
				planted = append(planted, public)
			}
			check("other persistent keys")
			for i, kind := range keys.EKs() {
				if _, _, err := m.NVPublic(ctx, kind.CertIndex); err != nil { // the maker's cannot be replaced
					plantCertificate(t, m, kind, planted[i])
				}
			}
			check("other persistent keys, with certificates")
			// The TCG's profile lets a maker change the template by these.
			plantNV(t, m, 0x01c00003, []byte("nonce of RSA-2048"))
			plantNV(t, m, 0x01c00004, tpm2.Marshal(*planted[0]))
			plantNV(t, m, 0x01c0000b, []byte("nonce of P-256"))
			plantNV(t, m, 0x01c0000c, tpm2.Marshal(*planted[1]))
			for i, index := range []tpm2.TPMHandle{2: 0x01c00017, 3: 0x01c00013, 4: 0x01c00015} {
				if index != 0 {
					plantNV(t, m, index, tpm2.Marshal(*planted[i]))
				}
			}
			check("other templates and nonces")
		})
	}
}

// TestPlantedCertificate: a certificate that an owner wrote for a key that the TPM does make changes nothing about which
// key is the identity, and goes with that one if it is for it.
func TestPlantedCertificate(t *testing.T) {
	ctx := context.Background()
	m := start(t, tpmtest.Options{EK: tpmtest.NoEK, Identity: 42})
	m.measureImage(t)
	s := newSite(t, "shop-1")
	want, err := s.client(m).EK(ctx)
	if err != nil {
		t.Fatal(err)
	}
	for _, kind := range []keys.EK{keys.EKs()[1], keys.EKs()[0]} {
		public, _ := createdEK(t, m, kind)
		plantCertificate(t, m, kind, public)
		if _, err := s.client(m).Boot(ctx, m.logs()); err != nil {
			t.Fatal(err)
		}
		d := s.verdict.Verified.Device
		if d.ID() != want {
			t.Errorf("with a certificate for the %s key the identity is %.16s; want %.16s", kind.Name, d.ID(), want)
		}
		if own := kind.Name == keys.EKs()[0].Name; (d.EKCertificate != nil) != own {
			t.Errorf("with a certificate for the %s key, %d bytes of certificate are shown", kind.Name, len(d.EKCertificate))
		}
	}
}

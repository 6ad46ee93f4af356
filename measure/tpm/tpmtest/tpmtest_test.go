package tpmtest_test

import (
	"crypto/x509"
	"encoding/asn1"
	"slices"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-tpm/tpm2"

	"github.com/sealboot/sealboot/measure/tpm/tpmtest"
)

func TestStart(t *testing.T) {
	for _, tc := range []struct {
		name  string
		opts  tpmtest.Options
		index tpm2.TPMHandle
		bits  int
	}{
		{"RSA-2048", tpmtest.Options{}, tpmtest.RSA2048Index, 2048},
		{"P-256", tpmtest.Options{EK: tpmtest.P256, TCP: true}, tpmtest.P256Index, 256},
		{"P-384", tpmtest.Options{EK: tpmtest.P384, Banks: []tpm2.TPMAlgID{tpm2.TPMAlgSHA256, tpm2.TPMAlgSHA384}}, tpmtest.P384Index, 384},
	} {
		t.Run(tc.name, func(t *testing.T) {
			tp := tpmtest.Start(t, tc.opts)
			want := tc.opts.Banks
			if want == nil {
				want = []tpm2.TPMAlgID{tpm2.TPMAlgSHA256}
			}
			banks, err := tp.Banks(t.Context())
			if err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff(want, banks); diff != "" {
				t.Errorf("banks (-want +got):\n%s", diff)
			}
			der, err := tp.ReadNV(t.Context(), tc.index)
			if err != nil {
				t.Fatal(err)
			}
			if !slices.Equal(der, tp.EKCert.Raw) {
				t.Error("EKCert is not the certificate in NV")
			}
			verify(t, tp)
		})
	}
}

// verify checks the chain as a relying party does, leaving aside the critical
// subject alternative name that names the TPM's model.
func verify(t *testing.T, tp *tpmtest.TPM) {
	t.Helper()
	cert := *tp.EKCert
	cert.UnhandledCriticalExtensions = slices.DeleteFunc(slices.Clone(cert.UnhandledCriticalExtensions),
		func(id asn1.ObjectIdentifier) bool { return id.Equal(asn1.ObjectIdentifier{2, 5, 29, 17}) })
	if _, err := cert.Verify(x509.VerifyOptions{Roots: tp.Pool(t), KeyUsages: []x509.ExtKeyUsage{x509.ExtKeyUsageAny}}); err != nil {
		t.Errorf("EK certificate: %v", err)
	}
}

func TestIdentity(t *testing.T) {
	a := tpmtest.Start(t, tpmtest.Options{})
	again := tpmtest.Start(t, tpmtest.Options{})
	b := tpmtest.Start(t, tpmtest.Options{Identity: 1})
	if !a.EKCert.Equal(again.EKCert) {
		t.Error("the same identity has two EKs")
	}
	if a.EKCert.Equal(b.EKCert) {
		t.Error("two identities have the same EK")
	}
	if !slices.Equal(a.CA, b.CA) {
		t.Error("the TPMs have different CAs")
	}
}

func TestReset(t *testing.T) {
	tp := tpmtest.Start(t, tpmtest.Options{})
	if err := tp.Extend(t.Context(), 12, map[tpm2.TPMAlgID][]byte{tpm2.TPMAlgSHA256: make([]byte, 32)}); err != nil {
		t.Fatal(err)
	}
	read := func() byte {
		v, err := tp.ReadPCRs(t.Context(), tpm2.TPMAlgSHA256, []int{12})
		if err != nil {
			t.Fatal(err)
		}
		return slices.Max(v[12])
	}
	if read() == 0 {
		t.Fatal("PCR 12 is still zero after an extend")
	}
	tp.Reset(t)
	if read() != 0 {
		t.Error("PCR 12 is not zero after a reset")
	}
	if conn := tp.Open(t); conn == nil || read() != 0 {
		t.Error("no second connection")
	}
}

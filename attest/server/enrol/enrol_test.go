package enrol

import (
	"errors"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/sealboot/sealboot/attest/device"
	"github.com/sealboot/sealboot/attest/verify"
	"github.com/sealboot/sealboot/measure/tpm/tpmtest"
)

func TestCertificateAloneNamesTheKey(t *testing.T) {
	for name, ek := range map[string]tpmtest.EK{"RSA-2048": tpmtest.RSA2048, "P-256": tpmtest.P256, "P-384": tpmtest.P384} {
		t.Run(name, func(t *testing.T) {
			tp := tpmtest.Start(t, tpmtest.Options{EK: ek})
			id, err := (&device.Client{TPM: tp.TPM}).EK(t.Context())
			if err != nil {
				t.Fatal(err)
			}
			s := Source{Certificates: [][]byte{append(slices.Clone(tp.EKCert.Raw), 0xff, 0xff)}, Roots: tp.Pool(t)}
			d, err := s.Device(time.Now())
			if err != nil || d.Tier != TierCertificate || !slices.Contains(d.EKs, id) {
				t.Errorf("Device = %+v, %v; the TPM's key is %s", d, err, id)
			}
			s.Roots = nil
			if _, err := s.Device(time.Now()); !errors.Is(err, ErrEndorsement) {
				t.Errorf("without roots: %v, want ErrEndorsement", err)
			}
		})
	}
}

func TestSource(t *testing.T) {
	tp := tpmtest.Start(t, tpmtest.Options{})
	a, b := strings.Repeat("aa", 32), strings.Repeat("bb", 32)
	for name, c := range map[string]struct {
		in   Source
		want error
	}{
		"hash":                      {Source{Hashes: []string{b, a, a}, HashSuffices: true}, nil},
		"hash without leave":        {Source{Hashes: []string{a}}, ErrEndorsement},
		"certificate of another":    {Source{Hashes: []string{a}, Certificates: [][]byte{tp.EKCert.Raw}, Roots: tp.Pool(t)}, verify.ErrOtherKey},
		"certificate that is noise": {Source{Certificates: [][]byte{[]byte("x")}}, verify.ErrCertificate},
	} {
		d, err := c.in.Device(time.Now())
		if !errors.Is(err, c.want) {
			t.Errorf("%s: %v, want %v", name, err, c.want)
		}
		if err == nil && (d.ID != b || !slices.Equal(d.EKs, []string{b, a})) {
			t.Errorf("%s: %+v", name, d)
		}
	}
	for _, s := range []Source{{HashSuffices: true}, {Hashes: []string{"AA"}, HashSuffices: true}, {Publics: [][]byte{{1, 2}}, HashSuffices: true}} {
		if _, err := s.Device(time.Now()); err == nil {
			t.Errorf("%+v: no error", s)
		}
	}
}

// TestOnlyEndorsedKeysAreEnrolled has a machine name a key of its own making next to that of its TPM.
func TestOnlyEndorsedKeysAreEnrolled(t *testing.T) {
	tp := tpmtest.Start(t, tpmtest.Options{})
	tpmKey, err := (&device.Client{TPM: tp.TPM}).EK(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	software := strings.Repeat("aa", 32)
	s := Source{Hashes: []string{tpmKey, software}, Certificates: [][]byte{tp.EKCert.Raw}, Roots: tp.Pool(t)}
	d, err := s.Device(time.Now())
	if err != nil || d.Tier != TierCertificate || d.ID != tpmKey || !slices.Equal(d.EKs, []string{tpmKey}) {
		t.Errorf("real key first: %+v, %v; want %s alone", d, err, tpmKey)
	}
	s.Hashes, s.Named = []string{tpmKey}, []string{software}
	if d, err := s.Device(time.Now()); err != nil || d.Tier != TierCertificate || !slices.Equal(d.EKs, []string{tpmKey}) {
		t.Errorf("software key named: %+v, %v; want %s alone", d, err, tpmKey)
	}
	s.Roots, s.HashSuffices = nil, true
	if d, err := s.Device(time.Now()); err != nil || d.Tier != TierHash || !slices.Equal(d.EKs, []string{tpmKey}) {
		t.Errorf("software key named, operator vouches for the first: %+v, %v; want %s alone", d, err, tpmKey)
	}
	s.Roots, s.HashSuffices, s.Named = tp.Pool(t), false, nil
	s.Hashes = []string{software, tpmKey}
	if d, err := s.Device(time.Now()); !errors.Is(err, ErrEndorsement) {
		t.Errorf("software key first: %+v, %v; want ErrEndorsement", d, err)
	}
	s.HashSuffices = true
	if d, err := s.Device(time.Now()); err != nil || d.Tier != TierHash {
		t.Errorf("software key first, operator vouches: %+v, %v; want tier %s", d, err, TierHash)
	}
}

// TestLabel has a delivery note that writes on the operator's terminal.
func TestLabel(t *testing.T) {
	for label, ok := range map[string]bool{
		"till 3, caf\u00e9": true, "": true, "\x1b[2J": false, "one\ntwo": false, "\u202egnp": false, strings.Repeat("x", maxLabel+1): false,
	} {
		s := Source{Hashes: []string{strings.Repeat("aa", 32)}, Label: label, HashSuffices: true}
		if _, err := s.Device(time.Now()); (err == nil) != ok {
			t.Errorf("label %.40q: %v", label, err)
		}
	}
}

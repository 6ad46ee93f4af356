package device_test

import (
	"bytes"
	"context"
	"os"
	"testing"
	"time"

	"github.com/google/go-tpm/tpm2"

	"github.com/sealboot/sealboot/attest/verify"
	"github.com/sealboot/sealboot/attest/wire"
	"github.com/sealboot/sealboot/measure/fwlog"
	"github.com/sealboot/sealboot/measure/tpm/tpmtest"
)

// TestBitFlips flips one bit in every byte of every field of good evidence. Each must be a denial, except in those
// parts of the firmware's log that no digest covers; there the facts must be the same. Without SEALBOOT_TEST_ALL=1 it
// is one byte in seven.
func TestBitFlips(t *testing.T) {
	step := 7
	if os.Getenv("SEALBOOT_TEST_ALL") == "1" {
		step = 1
	}
	m := start(t, tpmtest.Options{})
	m.measureImage(t)
	s := newSite(t, "shop-1")
	if _, err := s.client(m).Boot(context.Background(), m.logs()); err != nil {
		t.Fatal(err)
	}
	m3 := s.received[wire.PathEvidence]
	for name, field := range map[string]func(*wire.Evidence) []byte{
		"m1":               func(e *wire.Evidence) []byte { return e.M1 },
		"m2":               func(e *wire.Evidence) []byte { return e.M2 },
		"quote":            func(e *wire.Evidence) []byte { return e.Quote },
		"quoteSignature":   func(e *wire.Evidence) []byte { return e.QuoteSignature },
		"certify":          func(e *wire.Evidence) []byte { return e.Certify },
		"certifySignature": func(e *wire.Evidence) []byte { return e.CertifySig },
		"pcrValues":        func(e *wire.Evidence) []byte { return e.PCRValues[4] },
		"eventLog":         func(e *wire.Evidence) []byte { return e.EventLog },
		"firmwareLog":      func(e *wire.Evidence) []byte { return e.FirmwareLog },
	} {
		t.Run(name, func(t *testing.T) {
			for i := 0; ; i += step {
				var e wire.Evidence
				if err := wire.Unmarshal(m3, &e); err != nil {
					t.Fatal(err)
				}
				raw := field(&e)
				if i >= len(raw) {
					break
				}
				raw[i] ^= 1 << (i % 8)
				flipped, err := wire.Marshal(&e)
				if err != nil {
					t.Fatal(err)
				}
				v := s.Judge(time.Now(), flipped, s.appraise)
				if v.Allowed() && (name != "firmwareLog" || !sameFacts(s.verdict.Verified, v.Verified)) {
					t.Fatalf("allowed with byte %d changed", i)
				}
			}
		})
	}
}

// sameFacts compares what is proven of the firmware: digests of the quoted bank in quoted PCRs.
func sameFacts(a, b *verify.Verified) bool {
	facts := func(v *verify.Verified) []byte {
		var out []byte
		for _, index := range v.PCRs.Index {
			out = append(out, byte(index))
			for _, e := range v.Firmware {
				if e.PCR == index && e.Type != fwlog.EventNoAction {
					out = append(out, e.Digests[tpm2.TPMAlgSHA256]...)
				}
			}
		}
		return out
	}
	return bytes.Equal(facts(a), facts(b))
}

// TestNoPolicyDenies: facts without a policy are not enough, and a verdict's zero value denies.
func TestNoPolicyDenies(t *testing.T) {
	m := start(t, tpmtest.Options{})
	m.measureImage(t)
	s := newSite(t, "shop-1")
	s.appraise = nil
	if _, err := s.client(m).Boot(context.Background(), m.logs()); reasonOf(err) != wire.CodePolicy {
		t.Errorf("Boot() = %v", err)
	}
	s.appraise = func(*verify.Verified) []wire.Reason { panic("a fault in a policy") }
	if _, err := s.client(m).Boot(context.Background(), m.logs()); reasonOf(err) != wire.CodeMalformed {
		t.Errorf("Boot() = %v", err)
	}
	for _, v := range []*verify.Verdict{nil, {}, {Verified: &verify.Verified{}}} {
		if v.Allowed() {
			t.Errorf("%+v allows", v)
		}
		if _, _, err := verify.NewRelease(v, verify.Grant{}); err == nil {
			t.Error("a release for a denial")
		}
	}
}

func BenchmarkJudgeAndRelease(b *testing.B) {
	m := start(b, tpmtest.Options{})
	m.measureImage(b)
	s := newSite(b, "shop-1")
	if _, err := s.client(m).Boot(context.Background(), m.logs()); err != nil {
		b.Fatal(err)
	}
	m3 := s.received[wire.PathEvidence]
	b.ReportAllocs()
	for b.Loop() {
		v := s.Judge(time.Now(), m3, s.appraise)
		if _, _, err := verify.NewRelease(v, verify.Grant{Decision: "d", ReleaseKey: s.release, ServerKey: s.server, Secrets: &s.secrets}); err != nil {
			b.Fatal(err)
		}
	}
}

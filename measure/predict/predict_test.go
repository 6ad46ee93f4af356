package predict

import (
	"bytes"
	"encoding/hex"
	"encoding/json"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-tpm/tpm2"

	"github.com/sealboot/sealboot/measure"
	"github.com/sealboot/sealboot/measure/event"
	"github.com/sealboot/sealboot/measure/golden"
	"github.com/sealboot/sealboot/measure/pcr"
	"github.com/sealboot/sealboot/measure/tpm/tpmtest"
)

var bothBanks = []tpm2.TPMAlgID{tpm2.TPMAlgSHA256, tpm2.TPMAlgSHA384}

func descriptor() event.Descriptor {
	sum := func(c string) string { return strings.Repeat(c, 64) }
	return event.Descriptor{Kind: event.KindContainer, Artifacts: []event.Artifact{
		{Role: event.RoleKernel, SHA256: sum("a"), Size: 8 << 20},
		{Role: event.RoleCmdline, SHA256: sum("b"), Size: 17},
		{Role: event.RoleLayer, SHA256: sum("c"), Size: 100 << 20},
		{Role: event.RoleLayer, SHA256: sum("d"), Size: 3},
	}}
}

// TestForImageIsWhatTheLoaderMeasures runs the loader's side on a TPM.
func TestForImageIsWhatTheLoaderMeasures(t *testing.T) {
	want, err := ForImage(descriptor(), bothBanks)
	if err != nil {
		t.Fatal(err)
	}
	tp := tpmtest.Start(t, tpmtest.Options{Banks: bothBanks}).TPM
	recorder, err := measure.NewRecorder(tp)
	if err != nil {
		t.Fatal(err)
	}
	read := func() Digests {
		got := make(Digests)
		for _, bank := range bothBanks {
			values, err := tp.ReadPCRs(t.Context(), bank, []int{event.PCRImage})
			if err != nil {
				t.Fatal(err)
			}
			got[bank] = values[event.PCRImage]
		}
		return got
	}
	records, err := descriptor().Records()
	if err != nil {
		t.Fatal(err)
	}
	for _, r := range records {
		if err := recorder.Extend(t.Context(), event.PCRImage, r); err != nil {
			t.Fatal(err)
		}
	}
	if diff := cmp.Diff(want.Attested, read()); diff != "" {
		t.Errorf("at attestation (-predicted +TPM):\n%s", diff)
	}
	if err := recorder.Extend(t.Context(), event.PCRImage, event.CapRecord()); err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(want.AfterCap, read()); diff != "" {
		t.Errorf("after the cap (-predicted +TPM):\n%s", diff)
	}
}

// TestForImageGolden pins the reference values: fleets hold them signed.
func TestForImageGolden(t *testing.T) {
	image, err := ForImage(descriptor(), bothBanks)
	if err != nil {
		t.Fatal(err)
	}
	text := func(d Digests) map[string]string {
		m := make(map[string]string)
		for bank, digest := range d {
			m[pcr.BankName(bank)] = hex.EncodeToString(digest)
		}
		return m
	}
	out := map[string]any{"attested": text(image.Attested), "afterCap": text(image.AfterCap)}
	var events []map[string]string
	for _, d := range image.Digests {
		events = append(events, text(d))
	}
	out["events"] = events
	got, err := json.MarshalIndent(out, "", "  ")
	if err != nil {
		t.Fatal(err)
	}
	golden.Check(t, "testdata/image.json", string(got)+"\n")
}

func TestForImageRefuses(t *testing.T) {
	pe := buildPE(nil, "", "")
	for want, err := range map[string]error{
		"no PCR bank":         second(ForImage(descriptor(), nil)),
		"predict linux":       second(ForImage(event.Descriptor{Kind: event.KindLinux}, bothBanks)),
		"predict container":   second(ForImage(descriptor(), []tpm2.TPMAlgID{0x12})),
		"digest: no PCR bank": second(Authenticode(bytes.NewReader(pe), int64(len(pe)), nil)),
	} {
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("error is %v, want one with %q", err, want)
		}
	}
}

func second[T any](_ T, err error) error { return err }

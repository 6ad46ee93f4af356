package pcr_test

import (
	"bytes"
	"errors"
	"testing"

	"github.com/google/go-tpm/tpm2"

	"github.com/sealboot/sealboot/measure/pcr"
	"github.com/sealboot/sealboot/measure/tpm/tpmtest"
)

var banks = []tpm2.TPMAlgID{tpm2.TPMAlgSHA1, tpm2.TPMAlgSHA256, tpm2.TPMAlgSHA384, tpm2.TPMAlgSHA512}

func TestExtendIsWhatTheTPMDoes(t *testing.T) {
	tp := tpmtest.Start(t, tpmtest.Options{Banks: banks})
	for range 2 {
		digests := make(map[tpm2.TPMAlgID][]byte)
		for _, bank := range banks {
			d, err := pcr.Digest(bank, []byte("event"))
			if err != nil {
				t.Fatal(err)
			}
			digests[bank] = d
		}
		if err := tp.Extend(t.Context(), 12, digests); err != nil {
			t.Fatal(err)
		}
	}
	for _, bank := range banks {
		want, err := tp.ReadPCRs(t.Context(), bank, []int{12})
		if err != nil {
			t.Fatal(err)
		}
		d, err := pcr.Digest(bank, []byte("event"))
		if err != nil {
			t.Fatal(err)
		}
		got := pcr.Values{}
		for range 2 {
			if err := got.Extend(bank, 12, d); err != nil {
				t.Fatal(err)
			}
		}
		if !bytes.Equal(got[12], want[12]) {
			t.Errorf("%s: PCR 12 = %x; the TPM has %x", pcr.BankName(bank), got[12], want[12])
		}
	}
}

func TestExtendRefuses(t *testing.T) {
	for name, err := range map[string]error{
		"PCR 24":       pcr.Values{}.Extend(tpm2.TPMAlgSHA256, 24, make([]byte, 32)),
		"PCR -1":       pcr.Values{}.Extend(tpm2.TPMAlgSHA256, -1, make([]byte, 32)),
		"short digest": pcr.Values{}.Extend(tpm2.TPMAlgSHA384, 1, make([]byte, 32)),
		"SM3":          pcr.Values{}.Extend(0x12, 1, make([]byte, 32)),
	} {
		if err == nil {
			t.Errorf("%s: no error", name)
		}
	}
}

func TestNames(t *testing.T) {
	for _, bank := range banks {
		if got, err := pcr.ParseBank(pcr.BankName(bank)); err != nil || got != bank {
			t.Errorf("ParseBank(%s) = %v, %v", pcr.BankName(bank), got, err)
		}
	}
	if _, err := pcr.ParseBank("md5"); !errors.Is(err, pcr.ErrUnsupported) {
		t.Errorf("ParseBank(md5) error = %v", err)
	}
}

func TestCloneIsIndependent(t *testing.T) {
	a := pcr.Values{1: make([]byte, 32)}
	b := a.Clone()
	b[1][0] = 1
	if a[1][0] != 0 {
		t.Error("the clone shares memory")
	}
}

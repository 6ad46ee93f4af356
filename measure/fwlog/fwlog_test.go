package fwlog

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-eventlog/register"
	"github.com/google/go-eventlog/tcg"
	oracledata "github.com/google/go-eventlog/testdata"
	"github.com/google/go-tpm/tpm2"

	"github.com/sealboot/sealboot/measure/pcr"
)

func ovmf(t testing.TB) []byte {
	t.Helper()
	b, err := os.ReadFile("testdata/ovmf-uki.bin")
	if err != nil {
		t.Fatal(err)
	}
	return b
}

// TestReplayRealMachine replays the log of OVMF that started a UKI, and compares
// with the PCRs that its TPM had.
func TestReplayRealMachine(t *testing.T) {
	log, err := Parse(ovmf(t))
	if err != nil {
		t.Fatal(err)
	}
	text, err := os.ReadFile("testdata/ovmf-uki.pcrs")
	if err != nil {
		t.Fatal(err)
	}
	want := map[tpm2.TPMAlgID]pcr.Values{}
	for line := range strings.Lines(string(text)) {
		var name string
		var index int
		var value []byte
		if _, err := fmt.Sscanf(line, "%s %d %x", &name, &index, &value); err != nil {
			t.Fatal(err)
		}
		bank, err := pcr.ParseBank(name)
		if err != nil {
			t.Fatal(err)
		}
		if want[bank] == nil {
			want[bank] = pcr.Values{}
		}
		want[bank][index] = value
	}
	for bank, values := range want {
		got, err := log.Replay(bank)
		if err != nil {
			t.Fatal(err)
		}
		for index, value := range values {
			if bytes.Equal(value, pcr.Zero(bank)) != (got[index] == nil) || got[index] != nil && !bytes.Equal(value, got[index]) {
				t.Errorf("%s PCR %d = %x; the TPM had %x", pcr.BankName(bank), index, got[index], value)
			}
		}
	}
	if len(want) != 2 {
		t.Errorf("%d banks", len(want))
	}
}

// TestOracle lets another implementation replay real logs against the PCR values
// that we compute from them.
func TestOracle(t *testing.T) {
	for name, b := range map[string][]byte{
		"ovmf-uki": ovmf(t), "arch": oracledata.ArchLinuxWorkstationEventLog,
		"glinux": oracledata.GlinuxAlexEventLog,
		"rhel8":  oracledata.Rhel8EventLog, "ubuntu-1804": oracledata.Ubuntu1804AmdSevEventLog,
		"ubuntu-2104": oracledata.Ubuntu2104NoDbxEventLog, "ubuntu-2404": oracledata.Ubuntu2404AmdSevSnpEventLog,
		"ubuntu-2404-tdx": oracledata.Ubuntu2404IntelTdxA4HighGpu8GEventLog, "cos-85": oracledata.Cos85AmdSevEventLog,
		"cos-101": oracledata.Cos101AmdSevEventLog, "gdc": oracledata.GdcHost,
	} {
		t.Run(name, func(t *testing.T) {
			log, err := Parse(b)
			if err != nil {
				t.Fatal(err)
			}
			replayed := 0
			for _, bank := range log.Banks {
				if bank != tpm2.TPMAlgSHA256 && bank != tpm2.TPMAlgSHA384 && bank != tpm2.TPMAlgSHA1 {
					continue
				}
				values, err := log.Replay(bank)
				if err != nil {
					t.Fatal(err)
				}
				hash, err := pcr.Hash(bank)
				if err != nil {
					t.Fatal(err)
				}
				var mrs []register.MR
				for i, value := range values {
					mrs = append(mrs, register.PCR{Index: i, Digest: value, DigestAlg: hash})
				}
				events, err := tcg.ParseAndReplay(b, mrs, tcg.ParseOpts{})
				if err != nil {
					t.Errorf("bank %s: %v", pcr.BankName(bank), err)
				}
				replayed += len(events)
			}
			if replayed == 0 {
				t.Error("nothing was replayed")
			}
			t.Logf("%d events, banks %v, locality %d", len(log.Events), log.Banks, log.StartupLocality)
		})
	}
}

func TestEvents(t *testing.T) {
	log, err := Parse(ovmf(t))
	if err != nil {
		t.Fatal(err)
	}
	var got []string
	for _, e := range log.Events {
		if e.PCR == 4 || e.PCR == 5 {
			got = append(got, fmt.Sprintf("%d %s", e.PCR, e.Type))
		}
	}
	want := []string{
		"4 EV_EFI_ACTION", "4 EV_SEPARATOR", "5 EV_SEPARATOR",
		"4 EV_EFI_ACTION", "4 EV_EFI_ACTION",
		"4 EV_EFI_BOOT_SERVICES_APPLICATION",
		"4 EV_EFI_BOOT_SERVICES_APPLICATION",
		"5 EV_EFI_ACTION", "5 EV_EFI_ACTION",
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("events of PCR 4 and 5 (-want +got):\n%s", diff)
	}
}

// Builders of logs.

func header(banks ...uint16) []byte {
	data := append(bytes.Clone(specIDSignature), make([]byte, 8)...)
	data = binary.LittleEndian.AppendUint32(data, uint32(len(banks)))
	for _, bank := range banks {
		size := map[uint16]uint16{4: 20, 11: 32, 12: 48}[bank]
		data = binary.LittleEndian.AppendUint16(data, bank)
		data = binary.LittleEndian.AppendUint16(data, size)
	}
	return headerWith(append(data, 0))
}

func headerWith(data []byte) []byte {
	b := binary.LittleEndian.AppendUint32(make([]byte, 4), uint32(EventNoAction))
	b = append(b, make([]byte, 20)...)
	b = binary.LittleEndian.AppendUint32(b, uint32(len(data)))
	return append(b, data...)
}

func record(index uint32, typ EventType, data string) []byte {
	b := binary.LittleEndian.AppendUint32(nil, index)
	b = binary.LittleEndian.AppendUint32(b, uint32(typ))
	b = binary.LittleEndian.AppendUint32(b, 1)
	b = binary.LittleEndian.AppendUint16(b, 11)
	b = append(b, make([]byte, 32)...)
	b = binary.LittleEndian.AppendUint32(b, uint32(len(data)))
	return append(b, data...)
}

func join(parts ...[]byte) []byte { return bytes.Join(parts, nil) }

func TestParseMalformed(t *testing.T) {
	locality := func(l string) []byte { return record(0, EventNoAction, "StartupLocality\x00"+l) }
	separator := record(0, EventSeparator, "\x00\x00\x00\x00")
	for name, b := range map[string][]byte{
		"empty":                 {},
		"no header":             separator,
		"SHA-1 format":          oracledata.Debian10EventLog,
		"header of TPM 1.2":     headerWith([]byte("Spec ID Event00\x00\x00\x00\x00\x00\x00\x02\x00\x00\x00")),
		"no banks":              header(),
		"bank twice":            header(11, 11),
		"wrong digest size":     header(11, 13),
		"header too long":       headerWith(append(header(11)[32:], 0)),
		"cut in header":         header(11)[:30],
		"cut in event":          join(header(11), separator[:20]),
		"trailing zeros":        join(header(11), separator, make([]byte, 8)),
		"PCR 24":                join(header(11), record(24, EventSeparator, "")),
		"any PCR, extended":     join(header(11), record(anyPCR, EventSeparator, "")),
		"digest missing":        join(header(11, 12), separator),
		"digest of other bank":  join(header(12), separator),
		"digest twice":          join(header(11, 12), binary.LittleEndian.AppendUint32(separator[:8:8], 2), separator[12:46], separator[12:]),
		"huge event":            join(header(11), separator[:len(separator)-8], []byte{0xff, 0xff, 0xff, 0x7f}),
		"locality 2":            join(header(11), locality("\x02")),
		"locality twice":        join(header(11), locality("\x03"), locality("\x03")),
		"locality late":         join(header(11), separator, locality("\x03")),
		"locality of PCR 1":     join(header(11), record(1, EventNoAction, "StartupLocality\x00\x03")),
		"locality without byte": join(header(11), locality("")),
		"H-CRTM late":           join(header(11), separator, record(0, EventEFIHCRTM, "HCRTM")),
		"too many":              join(header(11), bytes.Repeat(separator, MaxEvents+1)),
		"too long":              make([]byte, MaxSize+1),
	} {
		t.Run(name, func(t *testing.T) {
			if _, err := Parse(b); !errors.Is(err, ErrMalformed) {
				t.Errorf("Parse() error = %v; want ErrMalformed", err)
			} else {
				t.Log(err)
			}
		})
	}
}

func TestStartupLocality(t *testing.T) {
	locality := record(0, EventNoAction, "StartupLocality\x00\x03")
	for name, tc := range map[string]struct {
		log  []byte
		want byte
	}{
		"none":   {record(0, EventSeparator, ""), 0},
		"3":      {join(locality, record(0, EventSeparator, "")), 3},
		"H-CRTM": {record(0, EventEFIHCRTM, "HCRTM"), 4},
		"both":   {join(locality, record(0, EventEFIHCRTM, "HCRTM")), 4},
	} {
		t.Run(name, func(t *testing.T) {
			log, err := Parse(join(header(11), record(anyPCR, EventNoAction, "no PCR"), record(1, EventSeparator, ""), tc.log))
			if err != nil {
				t.Fatal(err)
			}
			got, err := log.Replay(tpm2.TPMAlgSHA256)
			if err != nil {
				t.Fatal(err)
			}
			start := make([]byte, 32)
			start[31] = tc.want
			want := pcr.Values{0: start}
			for index := range 2 {
				if err := want.Extend(tpm2.TPMAlgSHA256, index, make([]byte, 32)); err != nil {
					t.Fatal(err)
				}
			}
			if diff := cmp.Diff(want, got); diff != "" {
				t.Errorf("PCRs (-want +got):\n%s", diff)
			}
			if log.Events[0].PCR != NoPCR {
				t.Errorf("PCR of an event without one = %d", log.Events[0].PCR)
			}
		})
	}
}

func TestReplayRefusesMissingBank(t *testing.T) {
	log, err := Parse(ovmf(t))
	if err != nil {
		t.Fatal(err)
	}
	if _, err := log.Replay(tpm2.TPMAlgSHA1); err == nil {
		t.Error("replayed a bank that is not in the log")
	}
}

func TestReadFrom(t *testing.T) {
	dir := t.TempDir()
	write := func(name string, size int) string {
		path := filepath.Join(dir, name)
		if err := os.WriteFile(path, make([]byte, size), 0o600); err != nil {
			t.Fatal(err)
		}
		return path
	}
	if b, err := readFrom(t.Context(), write("good", MaxSize)); err != nil || len(b) != MaxSize {
		t.Errorf("readFrom() = %d bytes, %v", len(b), err)
	}
	for _, path := range []string{write("empty", 0), filepath.Join(dir, "missing")} {
		if _, err := readFrom(t.Context(), path); !errors.Is(err, ErrNoLog) {
			t.Errorf("%s: error = %v; want ErrNoLog", path, err)
		}
	}
	if _, err := readFrom(t.Context(), write("long", MaxSize+1)); err == nil {
		t.Error("read a log that is too long")
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := readFrom(ctx, write("late", 1)); !errors.Is(err, context.Canceled) {
		t.Errorf("error = %v; want Canceled", err)
	}
}

func FuzzParse(f *testing.F) {
	f.Add(ovmf(f))
	f.Add(join(header(11), record(0, EventNoAction, "StartupLocality\x00\x03"), record(0, EventSeparator, "")))
	f.Fuzz(func(t *testing.T, b []byte) {
		log, err := Parse(b)
		if err != nil {
			return
		}
		for _, bank := range log.Banks {
			if _, err := pcr.Hash(bank); err != nil {
				continue
			}
			if _, err := log.Replay(bank); err != nil {
				t.Errorf("Replay(%s): %v", pcr.BankName(bank), err)
			}
		}
	})
}

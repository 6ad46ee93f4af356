package fwlog

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"os"
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
		size := map[uint16]uint16{4: 20, 11: 32, 12: 48, 13: 0}[bank]
		if bank >= 0x100 {
			size = maxDigestSize
		}
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
	banks := func(n int) []uint16 { // that no one knows, with digests of 64 bytes
		all := make([]uint16, n)
		for i := range all {
			all[i] = uint16(0x100 + i)
		}
		return all
	}
	const late = "a StartupLocality event that is malformed, repeated or late"
	for name, c := range map[string]struct {
		log  []byte
		want string // empty if nothing is wrong
	}{
		"empty":                 {[]byte{}, "header: cut short: 28 bytes"},
		"no header":             {separator, "does not begin with a Spec ID event"},
		"SHA-1 format":          {oracledata.Debian10EventLog, "does not begin with a Spec ID event"},
		"header of PCR 1":       {append([]byte{1}, header(11)[1:]...), "does not begin with a Spec ID event"},
		"header with a digest":  {join(header(11)[:8], []byte{1}, header(11)[9:]), "does not begin with a Spec ID event"},
		"header of TPM 1.2":     {headerWith([]byte("Spec ID Event00\x00\x00\x00\x00\x00\x00\x02\x00\x00\x00")), "crypto-agile"},
		"no banks":              {header(), "0 banks"},
		"many banks":            {header(banks(maxBanks)...), ""},
		"too many banks":        {header(banks(maxBanks + 1)...), "17 banks"},
		"bank twice":            {header(11, 11), "listed twice"},
		"wrong digest size":     {header(11, 13), "digests of 0 bytes"},
		"digest too large":      {bytes.Replace(header(0x100), []byte{0, 1, 64, 0}, []byte{0, 1, 65, 0}, 1), "digests of 65 bytes"},
		"digest of other size":  {bytes.Replace(header(11), []byte{11, 0, 32, 0}, []byte{11, 0, 20, 0}, 1), "digests of 20 bytes"},
		"header too long":       {headerWith(append(header(11)[32:], 0)), "after the vendor information"},
		"cut in header":         {header(11)[:30], "cut short: 2 bytes"},
		"cut in event":          {join(header(11), separator[:20]), "cut short: 26 bytes"},
		"trailing zeros":        {join(header(11), separator, make([]byte, 8)), "event 2: cut short"},
		"PCR 23":                {join(header(11), record(23, EventSeparator, "")), ""},
		"PCR 24":                {join(header(11), record(24, EventSeparator, "")), "no PCR 24"},
		"any PCR, extended":     {join(header(11), record(anyPCR, EventSeparator, "")), "no PCR 4294967295"},
		"digest missing":        {join(header(11, 12), separator), "1 digests for 2 banks"},
		"digest of other bank":  {join(header(12), separator), "too many for bank sha256"},
		"digest twice":          {join(header(11, 12), binary.LittleEndian.AppendUint32(separator[:8:8], 2), separator[12:46], separator[12:]), "too many for bank sha256"},
		"huge event":            {join(header(11), separator[:len(separator)-8], []byte{0xff, 0xff, 0xff, 0x7f}), "cut short: 2147483647"},
		"locality 2":            {join(header(11), locality("\x02")), "from locality 2"},
		"locality twice":        {join(header(11), locality("\x03"), locality("\x03")), late},
		"locality late":         {join(header(11), separator, locality("\x03")), late},
		"locality of PCR 1":     {join(header(11), record(1, EventNoAction, "StartupLocality\x00\x03")), late},
		"locality without byte": {join(header(11), locality("")), late},
		"locality of two bytes": {join(header(11), locality("\x03\x00")), late},
		"H-CRTM late":           {join(header(11), separator, record(0, EventEFIHCRTM, "HCRTM")), "a late EV_EFI_HCRTM_EVENT"},
		"many":                  {join(header(11), bytes.Repeat(separator, MaxEvents)), ""},
		"too many":              {join(header(11), bytes.Repeat(separator, MaxEvents+1)), "more than 4096 events"},
		"long":                  {join(header(11), record(0, EventNoAction, string(make([]byte, MaxSize-len(header(11))-len(record(0, EventNoAction, "")))))), ""},
		"too long":              {join(header(11), record(0, EventNoAction, string(make([]byte, MaxSize)))), "more than 1048576"},
	} {
		_, err := Parse(c.log)
		if c.want == "" && err != nil {
			t.Errorf("%s: %v", name, err)
		}
		if c.want != "" && (!errors.Is(err, ErrMalformed) || !strings.Contains(err.Error(), c.want)) {
			t.Errorf("%s: %v, want %v with %q", name, err, ErrMalformed, c.want)
		}
	}
}

func TestReplayOfAnotherBank(t *testing.T) {
	log, err := Parse(join(header(11), record(0, EventSeparator, "")))
	if err != nil {
		t.Fatal(err)
	}
	if values, err := log.Replay(tpm2.TPMAlgSHA384); err == nil || !strings.Contains(err.Error(), "no digests for bank sha384") {
		t.Errorf("Replay() = %v, %v", values, err)
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

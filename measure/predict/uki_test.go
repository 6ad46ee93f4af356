package predict

import (
	"bytes"
	"crypto/rand"
	"crypto/rsa"
	"crypto/sha256"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/binary"
	"encoding/pem"
	"errors"
	"math/big"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-tpm/tpm2"

	"github.com/sealboot/sealboot/measure/fwlog"
)

// A builder of small PE32+ files: headers of 1 KiB, then the sections as given.

type testSection struct {
	name    string
	data    string
	virtual int // 0: as long as the data
}

const testHeaders = 1024

func buildPE(sections []testSection, trailer, certs string) []byte {
	b := make([]byte, testHeaders)
	copy(b, "MZ")
	const pe, optionalSize = 0x80, 240
	binary.LittleEndian.PutUint32(b[0x3c:], pe)
	copy(b[pe:], "PE\x00\x00")
	binary.LittleEndian.PutUint16(b[pe+6:], uint16(len(sections)))
	binary.LittleEndian.PutUint16(b[pe+20:], optionalSize)
	optional := b[pe+24:]
	binary.LittleEndian.PutUint16(optional, magicPE32Plus)
	binary.LittleEndian.PutUint32(optional[60:], testHeaders)
	binary.LittleEndian.PutUint32(optional[64:], 0xdeadbeef) // checksum
	binary.LittleEndian.PutUint32(optional[108:], 16)
	table := optional[optionalSize:]
	for i, s := range sections {
		entry := table[i*sectionEntrySize:]
		copy(entry[:8], s.name)
		virtual := s.virtual
		if virtual == 0 {
			virtual = len(s.data)
		}
		binary.LittleEndian.PutUint32(entry[8:], uint32(virtual))
		binary.LittleEndian.PutUint32(entry[16:], uint32(len(s.data)))
		binary.LittleEndian.PutUint32(entry[20:], uint32(len(b)))
		b = append(b, s.data...)
		table = b[pe+24+optionalSize : testHeaders]
	}
	b = append(b, trailer...)
	if certs != "" {
		entry := b[pe+24+112+securityEntry*8:]
		binary.LittleEndian.PutUint32(entry, uint32(len(b)))
		binary.LittleEndian.PutUint32(entry[4:], uint32(len(certs)))
		b = append(b, certs...)
	}
	return b
}

const (
	checksumAt = 0x80 + 24 + 64
	securityAt = 0x80 + 24 + 112 + securityEntry*8
	tableAt    = 0x80 + 24 + 240
)

func authenticode(t *testing.T, b []byte) []byte {
	t.Helper()
	d, err := Authenticode(bytes.NewReader(b), int64(len(b)), bothBanks[:1])
	if err != nil {
		t.Fatal(err)
	}
	return d[tpm2.TPMAlgSHA256]
}

// hashWithout hashes an unsigned file from beginning to end, less two fields.
func hashWithout(b []byte) [sha256.Size]byte {
	return sha256.Sum256(bytes.Join([][]byte{b[:checksumAt], b[checksumAt+4 : securityAt], b[securityAt+8:]}, nil))
}

func TestAuthenticode(t *testing.T) {
	sections := []testSection{{".text", "code", 0}, {".data", "data", 0}}
	plain := buildPE(sections, "", "")
	want := hashWithout(plain)
	if got := authenticode(t, plain); !bytes.Equal(got, want[:]) {
		t.Errorf("digest = %x, want %x", got, want)
	}
	// The sections count in the order of the file, not of their table.
	swapped := bytes.Clone(plain)
	copy(swapped[tableAt:], plain[tableAt+sectionEntrySize:tableAt+2*sectionEntrySize])
	copy(swapped[tableAt+sectionEntrySize:], plain[tableAt:tableAt+sectionEntrySize])
	wantSwapped := hashWithout(swapped)
	if got := authenticode(t, swapped); !bytes.Equal(got, wantSwapped[:]) {
		t.Errorf("digest with sections out of order = %x, want %x", got, wantSwapped)
	}
	if got := authenticode(t, buildPE(sections, "", "signature")); !bytes.Equal(got, want[:]) {
		t.Error("a signature changes the digest")
	}
	if got := authenticode(t, buildPE(sections, "more", "")); bytes.Equal(got, want[:]) {
		t.Error("bytes after the sections do not change the digest")
	}
	if !bytes.Equal(authenticode(t, buildPE(sections, "more", "")), authenticode(t, buildPE(sections, "more", "signature"))) {
		t.Error("a signature after other bytes changes the digest")
	}
	sum := bytes.Clone(plain)
	sum[checksumAt]++
	if got := authenticode(t, sum); !bytes.Equal(got, want[:]) {
		t.Error("the checksum changes the digest")
	}
	for i := range plain {
		changed := bytes.Clone(plain)
		changed[i] ^= 1
		unhashed := i >= checksumAt && i < checksumAt+4 || i >= securityAt && i < securityAt+8
		d, err := Authenticode(bytes.NewReader(changed), int64(len(changed)), bothBanks[:1])
		if err == nil && bytes.Equal(d[tpm2.TPMAlgSHA256], want[:]) != unhashed {
			t.Fatalf("byte %d changed: same digest %t", i, !unhashed)
		}
	}
}

func TestNotPE(t *testing.T) {
	good := buildPE([]testSection{{".text", "code", 0}}, "", "sig")
	change := func(at int, b ...byte) []byte {
		c := bytes.Clone(good)
		copy(c[at:], b)
		return c
	}
	for name, c := range map[string]struct {
		b    []byte
		want string
	}{
		"empty":                {[]byte{}, "no DOS header"},
		"text":                 {[]byte(strings.Repeat("hello ", 100)), "no DOS header"},
		"cut":                  {good[:200], "sections that do not fit"},
		"cut section":          {buildPE([]testSection{{".text", "code", 0}}, "", "")[:testHeaders+2], "the file at 1026"},
		"cut certificates":     {good[:len(good)-2], "not at its end"},
		"PE header far away":   {change(0x3c, 0xff, 0xff, 0xff, 0xff), "no PE header"},
		"no signature":         {change(0x80, 'N', 'E'), "no PE header"},
		"too many sections":    {change(0x86, 0xff, 0xff), "65535 sections"},
		"optional header":      {change(0x80+20, 10, 0), "optional header of 10 bytes"},
		"kind":                 {change(0x80+24, 0x07, 0x01), "of kind 0x107"},
		"headers too long":     {change(0x80+24+60, 0xff, 0xff, 0xff, 0x7f), "headers of 2147483647 bytes"},
		"headers too short":    {change(0x80+24+60, 1, 0, 0, 0), "headers of 1 bytes"},
		"headers end early":    {change(0x80+24+60, 0xaf, 1, 0, 0), "headers of 431 bytes"},
		"certificates inside":  {change(securityAt, 0, 4, 0, 0), "not at its end"},
		"certificates outside": {change(securityAt+4, 0xff, 0xff, 0xff, 0xff), "not at its end"},
	} {
		_, err := Authenticode(bytes.NewReader(c.b), int64(len(c.b)), bothBanks)
		if !errors.Is(err, ErrPE) || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s: %v, want %v with %q", name, err, ErrPE, c.want)
		}
	}
	if _, err := Authenticode(bytes.NewReader(change(0x80+24+60, 0xb0, 1, 0, 0)), int64(len(good)), bothBanks); err != nil { // right behind the table
		t.Errorf("the shortest headers: %v", err)
	}
	broken := errors.New("medium error")
	if _, err := Authenticode(brokenReader{broken}, 4096, bothBanks); !errors.Is(err, broken) {
		t.Errorf("a file that cannot be read: %v, want %v", err, broken)
	}
}

type brokenReader struct{ err error }

func (b brokenReader) ReadAt([]byte, int64) (int, error) { return 0, b.err }

func readTestdata(t *testing.T, path string) string {
	t.Helper()
	b, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	return string(b)
}

const magic252 = "#### LoaderInfo: systemd-stub 252.39-1~deb12u2 ####\x00"

func testUKI(t *testing.T, magic string) []byte {
	t.Helper()
	return buildPE([]testSection{
		{".sdmagic", magic, 0},
		{".osrel", readTestdata(t, "testdata/osrel"), 0},
		{".uname", "6.1.0", 0},
		{".cmdline", readTestdata(t, "testdata/cmdline") + "\x00\x00padding", len(readTestdata(t, "testdata/cmdline"))},
		{".linux", string(buildPE([]testSection{{".text", "kernel", 0}}, "", "")), 0},
		{".initrd", "initrd", 16},
		{".pcrsig", "{}", 0},
	}, "", "")
}

// TestUKIAgainstRealLog compares with the log of a machine whose UKI had the same
// sections, with the same .osrel and .cmdline.
func TestUKIAgainstRealLog(t *testing.T) {
	log, err := fwlog.Parse([]byte(readTestdata(t, "../fwlog/testdata/ovmf-uki.bin")))
	if err != nil {
		t.Fatal(err)
	}
	var logged []fwlog.Event
	for _, e := range log.Events {
		if e.PCR == PCRKernel || e.PCR == PCRBootLoader && e.Type == fwlog.EventEFIBootServicesApp {
			logged = append(logged, e)
		}
	}
	uki := testUKI(t, magic252)
	events, err := UKI(bytes.NewReader(uki), int64(len(uki)), bothBanks)
	if err != nil {
		t.Fatal(err)
	}
	if len(events) != len(logged) {
		t.Fatalf("%d events, want %d", len(events), len(logged))
	}
	other := map[string]bool{"UKI": true, "content of .linux": true, "content of .initrd": true, "kernel in the UKI": true}
	for i, e := range events {
		same := len(logged[i].Digests) > 0
		for bank, digest := range logged[i].Digests {
			same = same && bytes.Equal(e.Digests[bank], digest)
		}
		if e.PCR != logged[i].PCR || e.Type != logged[i].Type || same == other[e.What] {
			t.Errorf("event %d, %s: PCR %d, %s, has the log's digests: %t", i, e.What, e.PCR, e.Type, same)
		}
	}
}

func TestUKISectionIsPaddedToItsVirtualSize(t *testing.T) {
	uki := testUKI(t, magic252)
	events, err := UKI(bytes.NewReader(uki), int64(len(uki)), bothBanks[:1])
	if err != nil {
		t.Fatal(err)
	}
	want := sha256.Sum256([]byte("initrd" + strings.Repeat("\x00", 10)))
	for _, e := range events {
		if e.What == "content of .initrd" && !bytes.Equal(e.Digests[tpm2.TPMAlgSHA256], want[:]) {
			t.Errorf("digest of .initrd = %x, want %x", e.Digests[tpm2.TPMAlgSHA256], want)
		}
	}
}

func TestUKIRefuses(t *testing.T) {
	kernel := string(buildPE([]testSection{{".text", "kernel", 0}}, "", ""))
	for name, tc := range map[string]struct {
		b    []byte
		want error
	}{
		"newer stub": {testUKI(t, "#### LoaderInfo: systemd-stub 257.1 ####"), ErrStub},
		"other stub": {testUKI(t, "#### LoaderInfo: systemd-boot 252 ####"), ErrStub},
		"no stub":    {buildPE([]testSection{{".linux", "x", 0}}, "", ""), ErrStub},
		"no kernel":  {buildPE([]testSection{{".sdmagic", magic252, 0}}, "", ""), ErrPE},
		"two kernels": {buildPE([]testSection{{".sdmagic", magic252, 0}, {".linux", kernel, 0},
			{".linux", kernel, 0}}, "", ""), ErrPE},
		"huge in memory": {buildPE([]testSection{{".sdmagic", magic252, 0}, {".linux", kernel, 0},
			{".initrd", "x", 1 << 30}}, "", ""), ErrPE},
		"kernel is not PE": {buildPE([]testSection{{".sdmagic", magic252, 0}, {".linux", "x", 0}}, "", ""), ErrPE},
	} {
		if _, err := UKI(bytes.NewReader(tc.b), int64(len(tc.b)), bothBanks); !errors.Is(err, tc.want) {
			t.Errorf("%s: error = %v; want %v", name, err, tc.want)
		}
	}
}

// TestAuthenticodeOracle has sbsign sign a real executable: the signature holds the
// digest that sbsign computed.
func TestAuthenticodeOracle(t *testing.T) {
	const stub = "/usr/lib/systemd/boot/efi/linuxx64.efi.stub"
	_, toolErr := exec.LookPath("sbsign")
	_, stubErr := os.Stat(stub)
	if err := errors.Join(toolErr, stubErr); err != nil {
		if os.Getenv("SEALBOOT_TEST_ALL") == "1" {
			t.Fatal(err)
		}
		t.Skip(err)
	}
	dir := t.TempDir()
	key, cert := writeSigner(t, dir)
	signed := filepath.Join(dir, "signed.efi")
	if out, err := exec.Command("sbsign", "--key", key, "--cert", cert, "--output", signed, stub).CombinedOutput(); err != nil {
		t.Fatalf("sbsign: %v\n%s", err, out)
	}
	b := []byte(readTestdata(t, signed))
	img, err := parseImage(bytes.NewReader(b), int64(len(b)))
	if err != nil {
		t.Fatal(err)
	}
	if img.certSize == 0 || !bytes.Contains(b[int64(len(b))-img.certSize:], authenticode(t, b)) {
		t.Error("the signature is not over our digest")
	}
}

func writeSigner(t *testing.T, dir string) (keyPath, certPath string) {
	t.Helper()
	key, err := rsa.GenerateKey(rand.Reader, 2048)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "test"},
		NotBefore: time.Unix(0, 0), NotAfter: time.Unix(1<<32, 0)}
	cert, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	if err != nil {
		t.Fatal(err)
	}
	der, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		t.Fatal(err)
	}
	keyPath, certPath = filepath.Join(dir, "key.pem"), filepath.Join(dir, "cert.pem")
	for path, block := range map[string]*pem.Block{
		keyPath: {Type: "PRIVATE KEY", Bytes: der}, certPath: {Type: "CERTIFICATE", Bytes: cert},
	} {
		if err := os.WriteFile(path, pem.EncodeToMemory(block), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	return keyPath, certPath
}

func FuzzUKI(f *testing.F) {
	inner := string(buildPE([]testSection{{".text", "kernel", 0}}, "", ""))
	f.Add(buildPE([]testSection{{".sdmagic", magic252, 0}, {".linux", inner, 0}, {".initrd", "i", 100}}, "trailer", "certs"))
	f.Fuzz(func(t *testing.T, b []byte) {
		events, err := UKI(bytes.NewReader(b), int64(len(b)), bothBanks[:1])
		if err != nil {
			return
		}
		for _, e := range events {
			if len(e.Digests[bothBanks[0]]) != sha256.Size || e.PCR != PCRBootLoader && e.PCR != PCRKernel {
				t.Errorf("%s: %d digests, PCR %d", e.What, len(e.Digests), e.PCR)
			}
		}
	})
}

package wire

import (
	"bytes"
	"crypto/rand"
	"encoding/base64"
	"encoding/json"
	"strings"
	"testing"

	"github.com/sealboot/sealboot/attest/wire/memtest"
)

// TestSecretsEncoding compares with encoding/json, for what may be sent and what may come.
func TestSecretsEncoding(t *testing.T) {
	full := Secrets{
		Version: 1, SealKey: bytes.Repeat([]byte{0xfb}, 32), FirstBoot: true, AgentCertificate: []byte("a"), SiteCA: []byte("ca"),
		AttestationResult: []byte("r"), Extra: map[string][]byte{"b": {1}, "a": {}, "A.b": nil, "ä<>&\u2028\x00\xff\"": []byte("x")},
	}
	for name, s := range map[string]Secrets{
		"nothing": {}, "everything": full, "negative": {Version: -1}, "no values": {Extra: map[string][]byte{}},
		"empty": {SealKey: []byte{}, AgentCertificate: []byte{}, SiteCA: []byte{}, AttestationResult: []byte{}},
		"one":   {Extra: map[string][]byte{"x": []byte("y")}},
		"large": {SealKey: make([]byte, 1<<20), Extra: map[string][]byte{strings.Repeat("n", 1<<16): make([]byte, 1<<16)}},
	} {
		if got, want := encodings(t, s); !bytes.Equal(got, want) {
			t.Errorf("%s: %.300s, want %.300s", name, got, want)
		}
	}
}

// encodings are ours and that of encoding/json.
func encodings(t *testing.T, s Secrets) (got, want []byte) {
	t.Helper()
	got, err := encode(&s)
	if err != nil {
		t.Fatal(err)
	}
	if cap(got) > 2*len(got)+512 {
		t.Errorf("%d bytes were set aside for %d", cap(got), len(got))
	}
	var b bytes.Buffer
	e := json.NewEncoder(&b)
	e.SetEscapeHTML(false)
	if err := e.Encode(s); err != nil {
		t.Fatal(err)
	}
	return got, bytes.TrimSuffix(b.Bytes(), []byte("\n"))
}

// FuzzSecretsEncoding takes whatever can be decoded.
func FuzzSecretsEncoding(f *testing.F) {
	f.Add([]byte(`{"version":1,"sealKey":"AAAA","firstBoot":true,"extra":{"a":"","\u2028":null}}`))
	f.Fuzz(func(t *testing.T, raw []byte) {
		var s Secrets
		if json.Unmarshal(raw, &s) != nil {
			return
		}
		if got, want := encodings(t, s); !bytes.Equal(got, want) {
			t.Errorf("%q, want %q", got, want)
		}
	})
}

// TestNoCopyOfSecretsStays looks for the secrets in all memory of this process after they were sealed, opened and wiped.
func TestNoCopyOfSecretsStays(t *testing.T) {
	k, transcript := make([]byte, KeySize), [32]byte{1}
	make32 := func() []byte {
		b := make([]byte, 32)
		if _, err := rand.Read(b); err != nil {
			t.Fatal(err)
		}
		return b
	}
	sealKey, seed := make32(), make32()
	extra := bytes.Repeat(seed[:30], 60) // whole groups of base64
	clear(seed)
	inBase64 := func(secret []byte) *memtest.Needle {
		text := base64.StdEncoding.AppendEncode(make([]byte, 0, 64), secret[:30])
		defer clear(text)
		return memtest.New(text)
	}
	hunts := map[string]*memtest.Needle{
		"seal key": memtest.New(sealKey), "seal key in base64": inBase64(sealKey),
		"secret": memtest.New(extra[:30]), "secret in base64": inBase64(extra),
	}
	s := &Secrets{
		Version: 1, SealKey: sealKey, AgentCertificate: []byte("a"), SiteCA: []byte("b"), Extra: map[string][]byte{"x": extra},
	}
	box, err := SealSecrets(k, transcript, "d", s)
	if err != nil {
		t.Fatal(err)
	}
	opened, err := OpenSecrets(k, transcript, "d", box)
	if err != nil {
		t.Fatal(err)
	}
	if hunts["seal key"].Count(t) == 0 {
		t.Fatal("the hunt finds nothing, not even what is there")
	}
	s.Wipe()
	opened.Wipe()
	clear(extra)
	for what, n := range hunts {
		if found := n.Count(t); found > 0 {
			t.Errorf("%d copies of the %s are left", found, what)
		}
	}
}

package wire

import (
	"bytes"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/sealboot/sealboot/measure/golden"
)

func fill(n int, b byte) []byte { return bytes.Repeat([]byte{b}, n) }

func newKey(t testing.TB) *ecdsa.PrivateKey {
	t.Helper()
	k, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	return k
}

func exampleDevice() *Device {
	return &Device{
		Version: 1, Site: "shop-1", Phase: PhaseBoot, Nonce: fill(32, 1), EKPublic: fill(3, 2), EKCertificate: fill(3, 3),
		AKPublic: fill(3, 4), AgentPublic: fill(3, 5), Banks: []string{"sha256", "sha384"}, Loader: "sealboot 1.0 <&>", Orders: 3,
	}
}

// examples are one message of each kind.
func examples(t testing.TB) map[string]Message {
	t.Helper()
	device, err := Marshal(exampleDevice())
	if err != nil {
		t.Fatal(err)
	}
	floor := uint64(0)
	hash := strings.Repeat("ab", 32)
	return map[string]Message{
		"hello-request": &HelloRequest{Version: 1, Site: "shop-1", EK: hash, Nonce: fill(32, 1)},
		"hello":         &Hello{Version: 1, Nonce: fill(32, 1), Time: 1_800_000_000, HealthyVersion: 7, RepairFloor: &floor, Orders: 3},
		"device":        exampleDevice(),
		"request":       &Request{Device: device, Join: fill(32, 9)},
		"challenge":     &Challenge{Version: 1, Cookie: fill(90, 1), Nonce: fill(32, 2), Bank: "sha256", PCRs: []int{0, 2, 4, 7, 12, 13}},
		"signed":        &Signed{Payload: []byte("{}"), Signature: fill(70, 1)},
		"evidence": &Evidence{Version: 1, M1: fill(3, 1), M2: fill(3, 2), Quote: fill(3, 3), QuoteSignature: fill(3, 4), Certify: fill(3, 5),
			CertifySig: fill(3, 6), PCRValues: [][]byte{fill(32, 7)}, FirmwareLog: fill(3, 8), EventLog: fill(3, 9)},
		"release-boot": &Release{Version: 1, Decision: "d-1", Phase: PhaseBoot, Credential: fill(3, 1), EncryptedSecret: fill(3, 2),
			Approval: fill(3, 3), Box: fill(3, 4), AgentPCRs: []int{0, 12}, AgentBank: "sha256", AgentApproval: fill(3, 5)},
		"release-renew": &Release{Version: 1, Decision: "d-2", Phase: PhaseRenew, AgentCertificate: []byte("CERT"), AgentPCRs: []int{0, 12},
			AgentBank: "sha256", AgentApproval: fill(3, 5)},
		"secrets": &Secrets{Version: 1, SealKey: fill(32, 1), FirstBoot: true, AgentCertificate: []byte("CERT"), SiteCA: []byte("CA"),
			AttestationResult: []byte("jwt"), Extra: map[string][]byte{"b": {1}, "a": {2}}},
		"agent-approval": &AgentApproval{Version: 1, Bank: "sha256", PCRs: []int{0, 12}, Signature: fill(3, 1), ReleaseKey: fill(3, 2)},
		"ack":            &Ack{Version: 1, Decision: "d-1", MAC: fill(32, 1)},
		"failure": &Failure{Version: 1, Code: CodeImage, Decision: "d-1", Reasons: []Reason{
			{Code: CodeImage, PCR: At(12), Event: "artifact kernel", Expected: "a", Found: "b", Detail: "c"}}},
		"report": &Report{Version: 1, Site: "shop-1", EK: hash, Stage: "fetch", Reason: "no route", Loader: "1.0"},
	}
}

// fresh is an empty message of the same type.
func fresh(m Message) Message {
	switch m.(type) {
	case *HelloRequest:
		return new(HelloRequest)
	case *Hello:
		return new(Hello)
	case *Device:
		return new(Device)
	case *Request:
		return new(Request)
	case *Challenge:
		return new(Challenge)
	case *Signed:
		return new(Signed)
	case *Evidence:
		return new(Evidence)
	case *Release:
		return new(Release)
	case *Secrets:
		return new(Secrets)
	case *AgentApproval:
		return new(AgentApproval)
	case *Ack:
		return new(Ack)
	case *Failure:
		return new(Failure)
	}
	return new(Report)
}

// TestGolden pins the encoding: devices in the field speak it for years.
func TestGolden(t *testing.T) {
	for name, m := range examples(t) {
		t.Run(name, func(t *testing.T) {
			got, err := Marshal(m)
			if err != nil {
				t.Fatal(err)
			}
			golden.Check(t, "testdata/"+name+".json", string(got)+"\n")
			back := fresh(m)
			if err := Unmarshal(got, back); err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff(m, back); diff != "" {
				t.Errorf("read back (-want +got):\n%s", diff)
			}
		})
	}
}

func TestUnmarshalRefuses(t *testing.T) {
	good, err := Marshal(&Ack{Version: 1, Decision: "d-1", MAC: fill(32, 1)})
	if err != nil {
		t.Fatal(err)
	}
	mac := strings.Split(string(good), `"`)[9]
	for name, raw := range map[string]string{
		"empty":           "",
		"null":            "null",
		"space":           " " + string(good),
		"newline behind":  string(good) + "\n",
		"something more":  string(good) + "{}",
		"unknown field":   strings.Replace(string(good), "}", `,"x":1}`, 1),
		"repeated field":  strings.Replace(string(good), "}", `,"version":1}`, 1),
		"other case":      strings.Replace(string(good), "version", "Version", 1),
		"escaped name":    strings.Replace(string(good), "version", "versio\\u006e", 1),
		"other order":     `{"decision":"d-1","version":1,"mac":"` + mac + `"}`,
		"other number":    strings.Replace(string(good), `:1,`, `:1.0,`, 1),
		"missing field":   `{"version":1,"decision":"d-1"}`,
		"other version":   strings.Replace(string(good), `:1,`, `:2,`, 1),
		"bad base64":      strings.Replace(string(good), mac, mac[:42]+"F=", 1),
		"base64 with CR":  strings.Replace(string(good), mac, `\r`+mac, 1),
		"bytes as a list": strings.Replace(string(good), `"`+mac+`"`, strings.Replace(strings.Repeat(",1", 32), ",", "[", 1)+"]", 1),
		"short":           strings.Replace(string(good), mac, "AQ==", 1),
		"bad name":        strings.Replace(string(good), "d-1", "d 1", 1),
	} {
		t.Run(name, func(t *testing.T) {
			if raw == string(good) {
				t.Fatal("nothing was changed")
			}
			if err := Unmarshal([]byte(raw), new(Ack)); !errors.Is(err, ErrMalformed) {
				t.Errorf("Unmarshal(%s) = %v, want ErrMalformed", raw, err)
			}
		})
	}
	if err := Unmarshal(fill(MaxMessage+1, ' '), new(Ack)); !errors.Is(err, ErrTooLarge) {
		t.Errorf("a large message gives %v, want ErrTooLarge", err)
	}
	if _, err := Marshal(&Evidence{Version: 1, M1: fill(3, 1), M2: fill(3, 2), Quote: fill(3, 3), QuoteSignature: fill(3, 4), Certify: fill(3, 5),
		CertifySig: fill(3, 6), PCRValues: [][]byte{fill(32, 7)}, FirmwareLog: fill(MaxEvidence, 8)}); !errors.Is(err, ErrTooLarge) {
		t.Errorf("evidence too large gives %v, want ErrTooLarge", err)
	}
}

func TestSigned(t *testing.T) {
	key, binding := newKey(t), [32]byte{1}
	hello := &Hello{Version: 1, Nonce: fill(32, 1), Time: 1}
	raw, err := Sign(key, DomainHello, binding, hello)
	if err != nil {
		t.Fatal(err)
	}
	var got Hello
	if err := Open(&key.PublicKey, DomainHello, binding, raw, &got); err != nil || got.Time != 1 {
		t.Fatalf("Open() = %+v, %v", got, err)
	}
	for name, err := range map[string]error{
		"other domain":  Open(&key.PublicKey, DomainRelease, binding, raw, new(Hello)),
		"other binding": Open(&key.PublicKey, DomainHello, [32]byte{2}, raw, new(Hello)),
		"other key":     Open(&newKey(t).PublicKey, DomainHello, binding, raw, new(Hello)),
	} {
		if !errors.Is(err, ErrSignature) {
			t.Errorf("%s: %v, want ErrSignature", name, err)
		}
	}
	p384, err := ecdsa.GenerateKey(elliptic.P384(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := Sign(p384, DomainHello, binding, hello); err == nil {
		t.Error("signed with P-384")
	}
	text, err := FormatKey(&key.PublicKey)
	if err != nil {
		t.Fatal(err)
	}
	if back, err := ParseKey(text); err != nil || !back.Equal(&key.PublicKey) {
		t.Errorf("ParseKey() = %v, %v", back, err)
	}
}

// TestVectors pins what hashes and MACs cover, with values computed once and for all.
func TestVectors(t *testing.T) {
	tr := Transcript([]byte("m1"), []byte("m2"))
	mac, err := AckMAC(fill(32, 1), tr, "d-1")
	if err != nil {
		t.Fatal(err)
	}
	h1, h2 := sha256.Sum256([]byte("m1")), sha256.Sum256([]byte("m2"))
	want := sha256.Sum256([]byte("sealboot/attest/v1" + string(h1[:]) + string(h2[:])))
	if tr != want {
		t.Errorf("transcript %x, want %x", tr, want)
	}
	for name, v := range map[string][2]string{
		"join": {hex.EncodeToString(JoinMAC([]byte("token"), []byte("device"))), vectorJoin},
		"ack":  {hex.EncodeToString(mac), vectorAck},
		"sign": {hex.EncodeToString(signedDigest(DomainRelease, tr, []byte("payload"))), vectorSign},
	} {
		if v[0] != v[1] {
			t.Errorf("%s: %s, want %s", name, v[0], v[1])
		}
	}
}

func TestJoin(t *testing.T) {
	raw, err := NewRequest(exampleDevice(), []byte("token"))
	if err != nil {
		t.Fatal(err)
	}
	r, d, err := ParseRequest(raw)
	if err != nil {
		t.Fatal(err)
	}
	if !r.Joins([]byte("token")) || r.Joins([]byte("other")) || r.Joins(nil) {
		t.Error("the join token is not what decides")
	}
	if diff := cmp.Diff(exampleDevice(), d); diff != "" {
		t.Error(diff)
	}
	r.Device[0] ^= 1
	if r.Joins([]byte("token")) {
		t.Error("the MAC does not cover the device")
	}
	for _, none := range [][]byte{nil, {}} {
		if (&Request{Device: r.Device}).Joins(none) || (&Request{Device: r.Device, Join: JoinMAC(none, r.Device)}).Joins(none) {
			t.Error("joins without a token")
		}
	}
}

func TestCookie(t *testing.T) {
	now := time.Unix(1_800_000_000, 0).UTC()
	key := CookieKey{1}
	c := &Cookie{Expires: now.Add(CookieLife), Request: [32]byte{2}, Bank: "sha384", PCRs: []int{0, 11, 15}}
	sealed, err := key.Seal("shop-1", c)
	if err != nil {
		t.Fatal(err)
	}
	got, err := key.Open("shop-1", sealed, now)
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(c, got); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
	for name, f := range map[string]func() error{
		"other site": func() error { _, err := key.Open("shop-2", sealed, now); return err },
		"other key":  func() error { _, err := CookieKey{2}.Open("shop-1", sealed, now); return err },
		"short":      func() error { _, err := key.Open("shop-1", sealed[:31], now); return err },
	} {
		if err := f(); !errors.Is(err, ErrCookie) {
			t.Errorf("%s: %v, want ErrCookie", name, err)
		}
	}
	for i := range sealed {
		changed := bytes.Clone(sealed)
		changed[i] ^= 0x80
		if _, err := key.Open("shop-1", changed, now); !errors.Is(err, ErrCookie) {
			t.Fatalf("byte %d changed: %v", i, err)
		}
	}
	for _, c := range []struct {
		after time.Duration
		want  error
	}{{-time.Minute - 1, ErrExpired}, {-time.Minute, nil}, {CookieLife, nil}, {CookieLife + 1, ErrExpired}} {
		if _, err := key.Open("shop-1", sealed, now.Add(c.after)); !errors.Is(err, c.want) {
			t.Errorf("%v after it was sealed: %v, want %v", c.after, err, c.want)
		}
	}
	seen := map[[32]byte]bool{}
	for range 1000 {
		if _, err := key.Seal("shop-1", c); err != nil || seen[c.Nonce] {
			t.Fatal("a nonce came twice", err)
		}
		seen[c.Nonce] = true
	}
}

func TestSecrets(t *testing.T) {
	k, tr := fill(KeySize, 7), [32]byte{1}
	secrets := examples(t)["secrets"].(*Secrets)
	box, err := SealSecrets(k, tr, "d-1", secrets)
	if err != nil {
		t.Fatal(err)
	}
	got, err := OpenSecrets(k, tr, "d-1", box)
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(secrets, got); diff != "" {
		t.Error(diff)
	}
	other := fill(KeySize, 8)
	for name, f := range map[string]func() (*Secrets, error){
		"other key":        func() (*Secrets, error) { return OpenSecrets(other, tr, "d-1", box) },
		"other transcript": func() (*Secrets, error) { return OpenSecrets(k, [32]byte{2}, "d-1", box) },
		"other decision":   func() (*Secrets, error) { return OpenSecrets(k, tr, "d-2", box) },
		"short key":        func() (*Secrets, error) { return OpenSecrets(k[:16], tr, "d-1", box) },
		"cut":              func() (*Secrets, error) { return OpenSecrets(k, tr, "d-1", box[:len(box)-1]) },
	} {
		if _, err := f(); err == nil {
			t.Errorf("%s: opened", name)
		}
	}
	seal := got.SealKey
	got.Wipe()
	if !bytes.Equal(seal, make([]byte, 32)) || got.SealKey != nil {
		t.Error("the seal key was not wiped")
	}
}

func TestFailureAlwaysFits(t *testing.T) {
	long := strings.Repeat("\"<\x1b[2J\u202e", 500)
	var reasons []Reason
	for range 50 {
		reasons = append(reasons, Reason{Code: CodeReplay, PCR: At(7), Event: long, Expected: long, Found: long, Detail: long})
	}
	raw := NewFailure(CodeReplay, "d-1", reasons)
	var f Failure
	if err := Unmarshal(raw, &f); err != nil || f.Code != CodeReplay || len(f.Reasons) == 0 {
		t.Fatalf("%d bytes, %d reasons, %v", len(raw), len(f.Reasons), err)
	}
	if strings.ContainsAny(f.Reasons[0].String(), "\x1b\u202e\n") {
		t.Error("control characters get through to the console")
	}
}

func FuzzUnmarshal(f *testing.F) {
	for _, m := range examples(f) {
		raw, err := Marshal(m)
		if err != nil {
			f.Fatal(err)
		}
		f.Add(raw)
	}
	f.Fuzz(func(t *testing.T, raw []byte) {
		for _, m := range []Message{new(HelloRequest), new(Hello), new(Device), new(Request), new(Challenge), new(Signed),
			new(Evidence), new(Release), new(Secrets), new(AgentApproval), new(Ack), new(Failure), new(Report)} {
			if Unmarshal(raw, m) != nil {
				continue
			}
			again, err := Marshal(m)
			if err != nil || !bytes.Equal(again, raw) {
				t.Fatalf("%T: read, but written otherwise: %v\n%s\n%s", m, err, raw, again)
			}
		}
	})
}

package wire

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"errors"
	"slices"
	"strings"
	"testing"
	"time"
)

// changed is a copy of a message with one thing changed.
func changed[T any](m Message, change func(*T)) Message {
	c := *any(m).(*T)
	change(&c)
	return any(&c).(Message)
}

func TestChecks(t *testing.T) {
	all := examples(t)
	for name, m := range map[string]Message{
		"secrets in a renewal": &Release{Version: 1, Decision: "d", Phase: PhaseRenew, Box: fill(3, 1), AgentCertificate: []byte("C"),
			AgentPCRs: []int{0}, AgentBank: "sha256", AgentApproval: fill(3, 1)},
		"certificate in clear in a boot": func() Message {
			r := *all["release-boot"].(*Release)
			r.AgentCertificate = []byte("C")
			return &r
		}(),
		"resettable PCR":  &Challenge{Version: 1, Cookie: fill(9, 1), Nonce: fill(32, 1), Bank: "sha256", PCRs: []int{0, 16}},
		"PCR twice":       &Challenge{Version: 1, Cookie: fill(9, 1), Nonce: fill(32, 1), Bank: "sha256", PCRs: []int{0, 0}},
		"no PCRs":         &Challenge{Version: 1, Cookie: fill(9, 1), Nonce: fill(32, 1), Bank: "sha256"},
		"seal key short":  &Secrets{Version: 1, SealKey: fill(16, 1), AgentCertificate: []byte("C"), SiteCA: []byte("C")},
		"name with slash": &Secrets{Version: 1, SealKey: fill(32, 1), AgentCertificate: []byte("C"), SiteCA: []byte("C"), Extra: map[string][]byte{"../init": {1}}},

		"phase of nobody":    changed(all["device"], func(d *Device) { d.Phase = "shutdown" }),
		"no bank":            changed(all["device"], func(d *Device) { d.Banks = nil }),
		"too many banks":     changed(all["device"], func(d *Device) { d.Banks = slices.Repeat([]string{"sha256"}, 9) }),
		"bank without name":  changed(all["device"], func(d *Device) { d.Banks = []string{""} }),
		"site without name":  changed(all["device"], func(d *Device) { d.Site = "" }),
		"name too long":      changed(all["device"], func(d *Device) { d.Site = strings.Repeat("a", 65) }),
		"no EK":              changed(all["device"], func(d *Device) { d.EKPublic = nil }),
		"EK too long":        changed(all["device"], func(d *Device) { d.EKPublic = fill(1<<10+1, 1) }),
		"nonce short":        changed(all["device"], func(d *Device) { d.Nonce = fill(31, 1) }),
		"join MAC short":     changed(all["request"], func(r *Request) { r.Join = fill(31, 1) }),
		"another version":    changed(all["device"], func(d *Device) { d.Version = 2 }),
		"hash short":         changed(all["hello-request"], func(h *HelloRequest) { h.EK = h.EK[1:] }),
		"hash in upper case": changed(all["hello-request"], func(h *HelloRequest) { h.EK = strings.ToUpper(h.EK) }),
		"time before 1970":   changed(all["hello"], func(h *Hello) { h.Time = 0 }),
		"no PCR values":      changed(all["evidence"], func(e *Evidence) { e.PCRValues = nil }),
		"too many values":    changed(all["evidence"], func(e *Evidence) { e.PCRValues = slices.Repeat(e.PCRValues, 17) }),
		"value too long":     changed(all["evidence"], func(e *Evidence) { e.PCRValues = [][]byte{fill(65, 1)} }),
		"no quote":           changed(all["evidence"], func(e *Evidence) { e.Quote = nil }),
		"too many reasons":   changed(all["failure"], func(f *Failure) { f.Reasons = slices.Repeat(f.Reasons, MaxReasons+1) }),
		"failure, no code":   changed(all["failure"], func(f *Failure) { f.Code = "" }),
	} {
		t.Run(name, func(t *testing.T) {
			if _, err := Marshal(m); !errors.Is(err, ErrMalformed) {
				t.Errorf("Marshal() = %v, want ErrMalformed", err)
			}
		})
	}
}

func TestKeysOfOtherCurves(t *testing.T) {
	p384, err := ecdsa.GenerateKey(elliptic.P384(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	text, err := FormatKey(&p384.PublicKey)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := ParseKey(text); err == nil {
		t.Error("ParseKey takes a P-384 key")
	}
	if _, err := Sign(p384, DomainHello, [32]byte{}, examples(t)["hello"]); err == nil {
		t.Error("Sign takes a P-384 key")
	}
}

func TestCookieBank(t *testing.T) {
	for bank, ok := range map[string]bool{"": false, "a": true, strings.Repeat("a", 16): true, strings.Repeat("a", 17): false} {
		sealed, err := (CookieKey{}).Seal("shop-1", &Cookie{Bank: bank, PCRs: []int{0}})
		if (err == nil) != ok {
			t.Errorf("bank %q: %v", bank, err)
		}
		if err != nil {
			continue
		}
		if c, err := (CookieKey{}).Open("shop-1", sealed, time.Time{}); err != nil || c.Bank != bank {
			t.Errorf("bank %q, opened: %+v, %v", bank, c, err)
		}
	}
}

// TestLimits has what is just short enough and, what is next to the characters that are allowed.
func TestLimits(t *testing.T) {
	all := examples(t)
	for name, m := range map[string]Message{
		"banks":       changed(all["device"], func(d *Device) { d.Banks = slices.Repeat([]string{"sha256"}, 8) }),
		"name":        changed(all["device"], func(d *Device) { d.Site = "AZaz09._-" + strings.Repeat("a", 55) }),
		"size":        changed(all["device"], func(d *Device) { d.EKPublic = fill(1<<10, 1) }),
		"hash":        changed(all["hello-request"], func(h *HelloRequest) { h.EK = strings.Repeat("09af", 16) }),
		"values":      changed(all["evidence"], func(e *Evidence) { e.PCRValues = slices.Repeat([][]byte{fill(64, 1)}, 16) }),
		"reasons":     changed(all["failure"], func(f *Failure) { f.Reasons = slices.Repeat(f.Reasons, MaxReasons) }),
		"PCR 0 to 15": changed(all["challenge"], func(c *Challenge) { c.PCRs = []int{0, 15} }),
	} {
		raw, err := Marshal(m)
		if err == nil {
			err = Unmarshal(raw, fresh(m))
		}
		if err != nil {
			t.Errorf("%s: %v", name, err)
		}
	}
	for _, c := range "@[`{/:+, " {
		if err := checkName("name", "a"+string(c)); err == nil {
			t.Errorf("a name with %q", c)
		}
	}
	for _, c := range "/:`gAF" {
		if err := checkHex("hash", strings.Repeat("0", 63)+string(c)); err == nil {
			t.Errorf("a hash with %q", c)
		}
	}
	for limit, want := range map[int]error{7: nil, 6: ErrTooLarge} {
		if raw, err := Marshal(&sized{N: 1, max: limit}); !errors.Is(err, want) {
			t.Errorf("encoded to %s, %v, want %v", raw, err, want)
		}
		if err := Unmarshal([]byte(`{"N":1}`), &sized{max: limit}); !errors.Is(err, want) {
			t.Errorf("decoded: %v, want %v", err, want)
		}
	}
}

// sized is a message with a limit of a test's choice.
type sized struct {
	N   int
	max int
}

func (s *sized) limit() int { return s.max }
func (*sized) check() error { return nil }

func TestReasonText(t *testing.T) {
	for in, want := range map[string]string{
		strings.Repeat("a", 39):             strings.Repeat("a", 39),
		strings.Repeat("a", 40):             "aaaaaaaaaaaa..",
		"x" + strings.Repeat("0", 64) + "x": "x000000000000..x",
	} {
		if got := shorten(in); got != want {
			t.Errorf("shorten(%q) = %q, want %q", in, got, want)
		}
	}
	for in, want := range map[string]string{
		strings.Repeat("a", 240): strings.Repeat("a", 240),
		strings.Repeat("a", 241): strings.Repeat("a", 237) + "...",
		" ~\x1f\x7fä":            " ~???",
	} {
		if got := Clean(in); got != want {
			t.Errorf("Clean(%q) = %q, want %q", in, got, want)
		}
	}
}

package wire

import (
	"bytes"
	"encoding/hex"
	"encoding/json"
	"errors"
	"strings"
	"testing"

	"github.com/sealboot/sealboot/measure/golden"
)

// vectors are for another implementation of the protocol; testdata/README.md says how
// they are used. Bytes are in hexadecimal.
type vectors struct {
	Transcript []transcriptVector `json:"transcript"`
	Join       []joinVector       `json:"join"`
	Secrets    []secretsVector    `json:"secrets"`
	Ack        []ackVector        `json:"ack"`
	Refused    []refusedVector    `json:"refused"`
}

type (
	transcriptVector struct{ M1, M2, T string }
	joinVector       struct{ Token, Device, MAC string }
	secretsVector    struct{ K, T, Decision, Plain, Box string }
	ackVector        struct{ K, T, Decision, MAC string }
	refusedVector    struct{ Why, Message, Text string }
)

func unhex(t *testing.T, s string) []byte {
	t.Helper()
	b, err := hex.DecodeString(s)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

// makeVectors computes what is deterministic.
func makeVectors(t *testing.T) vectors {
	t.Helper()
	must := func(b []byte, err error) string {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
		return hex.EncodeToString(b)
	}
	x := hex.EncodeToString
	m1, err := NewRequest(exampleDevice(), []byte("token"))
	if err != nil {
		t.Fatal(err)
	}
	m2, device := []byte(`{"payload":"","signature":""}`), must(Marshal(exampleDevice()))
	tr, k := Transcript(m1, m2), fill(KeySize, 7)
	secrets := examples(t)["secrets"].(*Secrets)
	v := vectors{
		Transcript: []transcriptVector{{x(m1), x(m2), x(tr[:])}},
		Join:       []joinVector{{x([]byte("token")), device, x(JoinMAC([]byte("token"), unhex(t, device)))}},
		Secrets:    []secretsVector{{x(k), x(tr[:]), "d-1", must(Marshal(secrets)), must(SealSecrets(k, tr, "d-1", secrets))}},
		Ack:        []ackVector{{x(k), x(tr[:]), "d-1", must(AckMAC(k, tr, "d-1"))}},
	}
	good := string(unhex(t, must(Marshal(&Ack{Version: 1, Decision: "d-1", MAC: fill(32, 1)}))))
	for _, r := range []struct{ why, text string }{
		{"a space before", " " + good}, {"a line end behind", good + "\n"},
		{"an unknown member", strings.Replace(good, "}", `,"x":1}`, 1)}, {"a repeated member", strings.Replace(good, "}", `,"version":1}`, 1)},
		{"a member in another case", strings.Replace(good, "version", "Version", 1)},
		{"another version", strings.Replace(good, ":1,", ":2,", 1)}, {"a number in another form", strings.Replace(good, ":1,", ":1.0,", 1)},
		{"a missing member", `{"version":1,"decision":"d-1"}`},
	} {
		v.Refused = append(v.Refused, refusedVector{r.why, "ack", r.text})
	}
	return v
}

// TestSharedVectors holds the file of vectors to what this implementation computes, and reads
// them as another one would.
func TestSharedVectors(t *testing.T) {
	made := makeVectors(t)
	text, err := json.MarshalIndent(made, "", "\t")
	if err != nil {
		t.Fatal(err)
	}
	golden.Check(t, "testdata/vectors.json", string(text)+"\n")
	for _, v := range made.Transcript {
		if got := Transcript(unhex(t, v.M1), unhex(t, v.M2)); !bytes.Equal(got[:], unhex(t, v.T)) {
			t.Errorf("transcript %x, want %s", got, v.T)
		}
		if r, _, err := ParseRequest(unhex(t, v.M1)); err != nil || !r.Joins([]byte("token")) {
			t.Errorf("M1: %v", err)
		}
	}
	for _, v := range made.Secrets {
		got, err := OpenSecrets(unhex(t, v.K), [32]byte(unhex(t, v.T)), v.Decision, unhex(t, v.Box))
		if err != nil {
			t.Fatal(err)
		}
		if plain, err := Marshal(got); err != nil || !bytes.Equal(plain, unhex(t, v.Plain)) {
			t.Errorf("secrets %s, %v", plain, err)
		}
		for name, change := range map[string]func(v *secretsVector){
			"another decision":   func(v *secretsVector) { v.Decision = "d-2" },
			"another transcript": func(v *secretsVector) { v.T = strings.Repeat("00", 32) },
			"another K":          func(v *secretsVector) { v.K = strings.Repeat("00", 32) },
			"a bit of the box":   func(v *secretsVector) { v.Box = "ff" + v.Box[2:] },
		} {
			c := v
			change(&c)
			if _, err := OpenSecrets(unhex(t, c.K), [32]byte(unhex(t, c.T)), c.Decision, unhex(t, c.Box)); err == nil {
				t.Errorf("%s: opened", name)
			}
		}
	}
	for _, v := range made.Refused {
		if err := Unmarshal([]byte(v.Text), new(Ack)); !errors.Is(err, ErrMalformed) {
			t.Errorf("%s: %v, want ErrMalformed", v.Why, err)
		}
	}
}

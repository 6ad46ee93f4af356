package result

import (
	"bytes"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/sha256"
	"encoding/json"
	"errors"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

func TestSignAndVerify(t *testing.T) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	other, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	want := Result{Issuer: "site", Device: "ab", Decision: "d", IssuedAt: 1, Image: "os", Version: 3, FirstBoot: true}
	data, err := Sign(key, want)
	if err != nil {
		t.Fatal(err)
	}
	got, err := Verify(data, &key.PublicKey)
	if diff := cmp.Diff(want, got); diff != "" || err != nil {
		t.Fatal(diff, err)
	}
	if got, err = Parse(data); got != want || err != nil {
		t.Errorf("Parse = %+v, %v", got, err)
	}
	if _, err := Verify(data, &other.PublicKey); !errors.Is(err, ErrInvalid) {
		t.Errorf("other key: %v, want ErrInvalid", err)
	}
	var j map[string]string
	if err := json.Unmarshal(data, &j); err != nil {
		t.Fatal(err)
	}
	for field := range j {
		changed := bytes.Replace(data, []byte(j[field]), []byte("A"+j[field][1:]), 1)
		if j[field][0] == 'A' {
			changed = bytes.Replace(data, []byte(j[field]), []byte("B"+j[field][1:]), 1)
		}
		if _, err := Verify(changed, &key.PublicKey); !errors.Is(err, ErrInvalid) {
			t.Errorf("%s changed: %v, want ErrInvalid", field, err)
		}
	}
}

// TestForms has results that are not encoded as Sign does, with signatures that are right for what they hold.
func TestForms(t *testing.T) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	encode := func(header, payload string, cut int) []byte {
		j := jws{Protected: b64.EncodeToString([]byte(header)), Payload: b64.EncodeToString([]byte(payload))}
		sum := sha256.Sum256([]byte(j.Protected + "." + j.Payload))
		r, s, err := ecdsa.Sign(rand.Reader, key, sum[:])
		if err != nil {
			t.Fatal(err)
		}
		sig := append(r.FillBytes(make([]byte, 32)), s.FillBytes(make([]byte, 32))...)
		j.Signature = b64.EncodeToString(sig[:64-cut])
		text, err := json.Marshal(j)
		if err != nil {
			t.Fatal(err)
		}
		return text
	}
	if _, err := Verify(encode(header, "{}", 0), &key.PublicKey); err != nil {
		t.Fatalf("as Sign does: %v", err)
	}
	for want, data := range map[string][]byte{
		"header is not ours": encode(`{"alg":"none"}`, "{}", 0),
		"wrong form":         encode(header, "{}", 1),
		"want at most":       append(encode(header, "{}", 0), bytes.Repeat([]byte(" "), maxSize)...),
		"JSON":               encode(header, "{", 0),
	} {
		if _, err := Verify(data, &key.PublicKey); !errors.Is(err, ErrInvalid) || !strings.Contains(err.Error(), want) {
			t.Errorf("Verify: %v, want %v with %q", err, ErrInvalid, want)
		}
	}
	p384, err := ecdsa.GenerateKey(elliptic.P384(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := Sign(p384, Result{}); err == nil {
		t.Error("signed with a P-384 key")
	}
}

func FuzzParse(f *testing.F) {
	f.Add([]byte(`{"protected":"","payload":"e30","signature":""}`))
	f.Fuzz(func(t *testing.T, data []byte) {
		if _, err := Parse(data); err != nil && !errors.Is(err, ErrInvalid) {
			t.Errorf("untyped error: %v", err)
		}
	})
}

package result

import (
	"bytes"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"encoding/json"
	"errors"
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

func FuzzParse(f *testing.F) {
	f.Add([]byte(`{"protected":"","payload":"e30","signature":""}`))
	f.Fuzz(func(t *testing.T, data []byte) {
		if _, err := Parse(data); err != nil && !errors.Is(err, ErrInvalid) {
			t.Errorf("untyped error: %v", err)
		}
	})
}

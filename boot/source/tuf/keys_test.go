package tuf

import (
	"crypto/ed25519"
	"crypto/rand"
	"fmt"
	"testing"

	"github.com/theupdateframework/go-tuf/v2/metadata"
)

// TestKeyListedAgain: a role of 5,000,000 bytes can list one key 70,000 times, which
// took as many verifications.
func TestKeyListedAgain(t *testing.T) {
	pub, _, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	key, err := metadata.KeyFromPublicKey(pub)
	if err != nil {
		t.Fatal(err)
	}
	e := &envelope{payload: []byte("signed"), signatures: map[string]metadata.HexBytes{"id": make([]byte, ed25519.SignatureSize)}}
	g := grant{keys: map[string]*metadata.Key{"id": key}, threshold: 1}
	cost := func(times int) float64 {
		g.ids = make([]string, times)
		for i := range g.ids {
			g.ids[i] = "id"
		}
		return testing.AllocsPerRun(2, func() {
			if e.verifiedBy(g) == nil {
				t.Error("a wrong signature was taken")
			}
		})
	}
	if once, again := cost(1), cost(70_000); again > once+10 {
		t.Errorf("a key costs %.0f allocations, listed 70,000 times %.0f", once, again)
	}
}

func TestKeysOfARole(t *testing.T) {
	var ids []string
	for i := range maxRoleKeys {
		ids = append(ids, fmt.Sprint(i))
	}
	ids = append(ids, ids...)
	if err := checkThreshold("role", 1, ids); err != nil {
		t.Errorf("%d keys: %v", maxRoleKeys, err)
	}
	if err := checkThreshold("role", 1, append(ids, "one more")); err == nil {
		t.Errorf("%d keys were taken", maxRoleKeys+1)
	}
}

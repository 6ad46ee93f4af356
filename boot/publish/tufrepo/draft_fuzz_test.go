package tufrepo

import (
	"crypto"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/sealboot/sealboot/boot/boottest/tuftest"
	"github.com/sealboot/sealboot/boot/source/tuf"
)

// FuzzDraft reads a draft of one role over a repository, and over none: nothing in
// it is more than an error.
func FuzzDraft(f *testing.F) {
	now := time.Date(2026, 5, 1, 12, 0, 0, 0, time.UTC)
	dir := filepath.Join(f.TempDir(), "repo")
	if err := os.Mkdir(dir, 0o755); err != nil {
		f.Fatal(err)
	}
	r, err := Open(f.Context(), dir, Operator{State: dir + ".state"})
	if err != nil {
		f.Fatal(err)
	}
	defer r.Close()
	key := tuftest.NewKeyOf(f, "", "ed25519")
	changes := []Change{Create()}
	for _, role := range topLevel {
		changes = append(changes, AddKey(role, key.Public()))
	}
	if _, err := r.Apply(f.Context(), now, []crypto.Signer{key}, changes...); err != nil {
		f.Fatal(err)
	}
	p, err := r.load(f.Context())
	if err != nil {
		f.Fatal(err)
	}
	for role, data := range p.bytes {
		f.Add(role, data)
	}
	f.Add("team", p.bytes[tuf.RoleTargets])
	f.Fuzz(func(t *testing.T, role string, data []byte) {
		if role == "" || tuf.Check(role, data) != nil {
			t.Skip()
		}
		for _, p := range []*published{p, {}} {
			md, err := decode(role, data)
			if err != nil {
				continue
			}
			e := newEdit(r, now, p)
			e.roles[role], e.changed[role] = md, true
			err = e.checkDraft()
			if _, err := e.diff(nil); err != nil {
				t.Error(err)
			}
			if err == nil && e.signable() == nil && e.settle() == nil {
				e.status()
			}
		}
	})
}

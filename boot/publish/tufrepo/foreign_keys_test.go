package tufrepo

import (
	"crypto"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/theupdateframework/go-tuf/v2/metadata"

	"github.com/sealboot/sealboot/boot/boottest/tuftest"
	"github.com/sealboot/sealboot/boot/source/tuf"
)

// TestDelegationsWithoutKeys: another tool may have written delegations that have no
// keys yet, which is a map that nothing can be put into.
func TestDelegationsWithoutKeys(t *testing.T) {
	now := time.Date(2026, 5, 1, 12, 0, 0, 0, time.UTC)
	dir, file := t.TempDir(), filepath.Join(t.TempDir(), "file")
	if err := os.WriteFile(file, []byte("one"), 0o644); err != nil {
		t.Fatal(err)
	}
	key := tuftest.NewKeyOf(t, "ed25519", "ed25519")
	all := []crypto.Signer{key}
	changes := consistent.create(file)
	for _, role := range topLevel {
		changes = append(changes, AddKey(role, key.Public()))
	}
	changes = append(changes, func(e *Edit) error {
		role, err := e.targets(tuf.RoleTargets)
		if err == nil {
			role.Delegations = &metadata.Delegations{Roles: []metadata.DelegatedRole{}}
		}
		return err
	})
	apply(t, dir, func(r *Repo) {
		mustApply(t, r, now, all, changes...)
		mustApply(t, r, now, all, Delegate(Delegation{Name: "team", Paths: []string{"*"}, Keys: []crypto.PublicKey{key.Public()}}))
	})
	wantOldOrNew(t, dir, now)
}

package server

import (
	"bytes"
	"slices"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/sealboot/sealboot/attest/server/site"
	"github.com/sealboot/sealboot/attest/store"
)

// TestOperatorsSecrets releases as much as may be stored to a device with a TPM, while attestd runs.
func TestOperatorsSecrets(t *testing.T) {
	l := newLab(t)
	m := l.machine(1)
	id := l.enrol(m)
	// An operator's process beside attestd.
	operator, err := site.Load(l.dir, l.server.Now)
	if err != nil {
		t.Fatal(err)
	}
	large := bytes.Repeat([]byte("s"), site.MaxSecrets-len("large")-len("own")-40)
	if err := operator.SetSecret(site.SecretName{Name: "large"}, large); err != nil {
		t.Fatal(err)
	}
	if err := operator.SetSecret(site.SecretName{Device: id, Name: "own"}, []byte("o")); err != nil {
		t.Fatal(err)
	}
	r, _ := boot(t, m, "good")
	if diff := cmp.Diff(map[string][]byte{"large": large, "own": []byte("o")}, r.Secrets); diff != "" {
		t.Errorf("released (-want +got):\n%s", diff)
	}
	if slices.ContainsFunc(l.events(), func(e store.Event) bool { return bytes.Contains([]byte(e.Reason), large[:8]) }) {
		t.Error("a secret is in the audit log")
	}
	if err := operator.RemoveSecret(site.SecretName{Device: id, Name: "own"}); err != nil {
		t.Fatal(err)
	}
	m.tpm.Reset(t)
	if r, _ = boot(t, m, "good"); len(r.Secrets) != 1 {
		t.Errorf("after the removal: %d secrets, want 1", len(r.Secrets))
	}
}

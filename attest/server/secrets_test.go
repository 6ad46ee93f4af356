package server

import (
	"bytes"
	"encoding/base64"
	"slices"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/sealboot/sealboot/attest/server/site"
	"github.com/sealboot/sealboot/attest/store"
	"github.com/sealboot/sealboot/attest/wire/memtest"
)

// TestOperatorsSecrets releases as much as may be stored to a device with a TPM, while attestd runs.
func TestOperatorsSecrets(t *testing.T) {
	l := newLab(t)
	m := l.machine(1)
	id := l.enrol(m)
	// An operator's process next to attestd.
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

// TestReleaseLeavesNoCopies releases to a device with a TPM, all in this process, and looks for what was released once
// both have wiped it: attestd keeps its seal key, and not as text.
func TestReleaseLeavesNoCopies(t *testing.T) {
	l := newLab(t)
	m := l.machine(1)
	l.enrol(m)
	inBase64 := func() *memtest.Needle {
		text := base64.StdEncoding.AppendEncode(make([]byte, 0, 64), l.site.SealKey[:30])
		defer clear(text)
		return memtest.New(text)
	}
	text, raw := inBase64(), memtest.New(l.site.SealKey)
	before := raw.Count(t)
	r, _ := boot(t, m, "good")
	if !bytes.Equal(r.SealKey, l.site.SealKey) {
		t.Fatal("another seal key was released")
	}
	r.Wipe()
	if n := text.Count(t); n != 0 {
		t.Errorf("%d copies of the seal key in base64 are left", n)
	}
	if n := raw.Count(t); n != before {
		t.Errorf("%d copies of the seal key, %d before", n, before)
	}
}

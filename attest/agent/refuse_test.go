package agent

import (
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-tpm/tpm2"

	"github.com/sealboot/sealboot/attest/wire"
	"github.com/sealboot/sealboot/measure/tpm/tpmtest"
)

func TestReadFile(t *testing.T) {
	dir := t.TempDir()
	if _, err := ReadFile(dir, FileEventLog); !errors.Is(err, ErrNotAttested) {
		t.Errorf("a file that is not there: %v, want ErrNotAttested", err)
	}
	path := filepath.Join(dir, FileEventLog)
	for size, want := range map[int]string{maxFile: "", maxFile + 1: "more than 4194304 bytes"} {
		if err := os.WriteFile(path, make([]byte, size), 0o600); err != nil {
			t.Fatal(err)
		}
		b, err := ReadFile(dir, FileEventLog)
		if want == "" && (err != nil || len(b) != size) || want != "" && (err == nil || !strings.Contains(err.Error(), want)) {
			t.Errorf("%d bytes: %d, %v", size, len(b), err)
		}
	}
}

// TestGather: a machine without a handover has less to say; one whose handover cannot be read says so.
func TestGather(t *testing.T) {
	tp := tpmtest.Start(t, tpmtest.Options{})
	dir := t.TempDir()
	e, err := Gather(t.Context(), tp.TPM, dir)
	if err != nil || len(e.EKs) == 0 || len(e.Certificates) == 0 || len(e.PCRs["sha256"]) != 16 || e.EventLog != nil {
		t.Errorf("%+v, %v", e, err)
	}
	if err := os.Mkdir(filepath.Join(dir, FileEventLog), 0o700); err != nil {
		t.Fatal(err)
	}
	if _, err := Gather(t.Context(), tp.TPM, dir); err == nil || !strings.Contains(err.Error(), "read handover") {
		t.Errorf("a directory in the place of the event log: %v", err)
	}
}

// TestGatherPastForeignIndex: where a certificate could be, an OS with owner rights has left an index that takes a
// password to read. The machine can be enrolled all the same, by the certificate of its maker.
func TestGatherPastForeignIndex(t *testing.T) {
	tp := tpmtest.Start(t, tpmtest.Options{})
	owner := tpm2.AuthHandle{Handle: tpm2.TPMRHOwner, Auth: tpm2.PasswordAuth(nil)}
	if _, err := (tpm2.NVDefineSpace{AuthHandle: owner, Auth: tpm2.TPM2BAuth{Buffer: []byte("secret")}, PublicInfo: tpm2.New2B(tpm2.TPMSNVPublic{
		NVIndex: tpmtest.P256Index, NameAlg: tpm2.TPMAlgSHA256, DataSize: 8,
		Attributes: tpm2.TPMANV{OwnerWrite: true, AuthRead: true, NoDA: true},
	})}).Execute(tp); err != nil {
		t.Fatal(err)
	}
	_, name, err := tp.NVPublic(t.Context(), tpmtest.P256Index)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := (tpm2.NVWrite{AuthHandle: owner, NVIndex: tpm2.NamedHandle{Handle: tpmtest.P256Index, Name: name},
		Data: tpm2.TPM2BMaxNVBuffer{Buffer: make([]byte, 8)}}).Execute(tp); err != nil {
		t.Fatal(err)
	}
	e, err := Gather(t.Context(), tp.TPM, t.TempDir())
	if err != nil || len(e.Certificates) != 1 {
		t.Errorf("Gather() = %+v, %v; want the RSA certificate", e, err)
	}
}

// TestRenewRefuses a handover whose keys are none that attestd could have, before the TPM or the network is used.
func TestRenewRefuses(t *testing.T) {
	ec, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	ed, _, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	edDER, err := x509.MarshalPKIXPublicKey(ed)
	if err != nil {
		t.Fatal(err)
	}
	server, err := wire.FormatKey(&ec.PublicKey)
	if err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct {
		want    string
		server  string
		release []byte
	}{
		{"release key is ed25519.PublicKey", server, edDER},
		{FileApproval, server, []byte("garbage")},
		{FileResult, "garbage", edDER},
	} {
		h, err := Open(writeHandover(t, false))
		if err != nil {
			t.Fatal(err)
		}
		h.Result.ServerKey = c.server
		approval, err := wire.Marshal(&wire.AgentApproval{Version: wire.Version, Bank: "sha256", PCRs: []int{0}, ReleaseKey: c.release, Signature: []byte("s")})
		if err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(filepath.Join(h.Dir, FileApproval), approval, 0o400); err != nil {
			t.Fatal(err)
		}
		if _, _, err := (&TPMKey{Handover: h}).Renew(t.Context()); err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("error is %v, want one with %q", err, c.want)
		}
	}
}

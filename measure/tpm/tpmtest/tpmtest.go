// Package tpmtest gives a test a TPM of its own: an emulator (swtpm) that has been
// manufactured as real TPMs are, with an endorsement key and a certificate for it.
package tpmtest

import (
	"context"
	"crypto/x509"
	"encoding/pem"
	"os"
	"os/exec"
	"testing"

	"github.com/google/go-tpm/tpm2"

	"github.com/sealboot/sealboot/measure/tpm"
)

// EK says which endorsement key a TPM has a certificate for.
type EK int

// The sorts of TPM that are sold. NV indices as in the TCG EK Credential Profile.
const (
	RSA2048 EK = iota // certificate at 0x01c00002, key at 0x81010001 and of the low-range template
	P256              // certificate at 0x01c0000a, key of the low-range template, not persistent
	P384              // certificate at 0x01c00016, key persistent at 0x81010016 (as swtpm_setup does)
	NoEK              // no certificate at all
)

// NV indices of the EK certificates.
const (
	RSA2048Index tpm2.TPMHandle = 0x01c00002
	P256Index    tpm2.TPMHandle = 0x01c0000a
	P384Index    tpm2.TPMHandle = 0x01c00016
)

// Persistent handles of the EKs that swtpm_setup makes.
const (
	rsa2048Handle tpm2.TPMHandle = 0x81010001
	p384Handle    tpm2.TPMHandle = 0x81010016
)

// Options choose a TPM. The zero value has an RSA-2048 EK and a SHA-256 bank.
type Options struct {
	EK    EK
	Banks []tpm2.TPMAlgID // active PCR banks; SHA-256 if empty
	// Identity tells TPMs apart. In one test process, those with the same
	// Options are the same TPM, manufactured once: give a second one another
	// Identity.
	Identity int
	TCP      bool // listen on loopback TCP instead of a Unix socket
}

// TPM is a running emulator and a connection to it.
type TPM struct {
	*tpm.TPM
	Addr   string // for tpm.Open, once the connection here is closed
	Dir    string // the emulator's state
	CA     []byte // PEM, the certificate that issued EKCert, then its root
	EKCert *x509.Certificate

	control string // Unix socket
}

// Start runs a TPM until the test ends. It skips the test if swtpm is not
// installed, or fails it if SEALBOOT_TEST_ALL is 1.
func Start(t testing.TB, opts Options) *TPM {
	t.Helper()
	needTools(t, "swtpm", "swtpm_setup", "swtpm_localca")
	if len(opts.Banks) == 0 {
		opts.Banks = []tpm2.TPMAlgID{tpm2.TPMAlgSHA256}
	}
	made := manufacture(t, opts)
	// Not t.TempDir: with the test's name in it, a socket's path can be too long.
	dir := tempDir(t)
	if err := os.CopyFS(dir, made.state); err != nil {
		t.Fatalf("copy TPM state: %v", err)
	}
	e := startEmulator(t, dir, opts.TCP)
	return &TPM{TPM: e.tpm, Addr: e.addr, Dir: dir, CA: made.ca, EKCert: made.cert, control: e.control}
}

// Reset turns the TPM off and on: PCRs, sessions and transient objects are gone,
// locks of NV indices opened, NV kept. The connection stays.
func (tp *TPM) Reset(t testing.TB) {
	t.Helper()
	controlCommand(t, tp.control, controlInit)
	startup(t, tp.TPM)
}

// Restart is a power cycle for which the TPM was told to save its state (TPM2_Shutdown(STATE)), but is not asked for
// that state again. PCRs, locks and transient objects are as after [TPM.Reset], but the TPM counts a restart and no reset.
func (tp *TPM) Restart(t testing.TB) {
	t.Helper()
	tp.saveState(t)
	startup(t, tp.TPM)
}

// Suspend takes the machine through a suspend to RAM: the TPM saves its state, is
// off for a while, and has its PCRs again. The connection stays.
func (tp *TPM) Suspend(t testing.TB) {
	t.Helper()
	tp.saveState(t)
	if _, err := (tpm2.Startup{StartupType: tpm2.TPMSUState}).Execute(tp.TPM); err != nil {
		t.Fatalf("resume TPM: %v", err)
	}
}

// saveState has the TPM save its state, and turns it off and on.
func (tp *TPM) saveState(t testing.TB) {
	t.Helper()
	if _, err := (tpm2.Shutdown{ShutdownType: tpm2.TPMSUState}).Execute(tp.TPM); err != nil {
		t.Fatalf("save the state of the TPM: %v", err)
	}
	controlCommand(t, tp.control, controlInit)
}

// Open makes another connection, after closing the one there is: swtpm serves
// one at a time. The test closes it in the end.
func (tp *TPM) Open(t testing.TB) *tpm.TPM {
	t.Helper()
	tp.Close() //nolint:errcheck // may be closed already
	conn, err := tpm.Open(context.Background(), tp.Addr)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { conn.Close() })
	tp.TPM = conn
	return conn
}

// Pool returns the CA certificates as a pool of roots.
func (tp *TPM) Pool(t testing.TB) *x509.CertPool {
	t.Helper()
	pool := x509.NewCertPool()
	if !pool.AppendCertsFromPEM(tp.CA) {
		t.Fatal("no CA certificate in PEM")
	}
	return pool
}

func needTools(t testing.TB, names ...string) {
	t.Helper()
	for _, name := range names {
		if _, err := exec.LookPath(name); err == nil {
			continue
		}
		if os.Getenv("SEALBOOT_TEST_ALL") == "1" {
			t.Fatalf("%s is not installed (Debian package swtpm-tools)", name)
		}
		t.Skipf("%s is not installed", name)
	}
}

func tempDir(t testing.TB) string {
	t.Helper()
	dir, err := os.MkdirTemp("", "tpm")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	return dir
}

func startup(t testing.TB, conn *tpm.TPM) {
	t.Helper()
	_, err := tpm2.Startup{StartupType: tpm2.TPMSUClear}.Execute(conn)
	if err != nil && err != tpm2.TPMRCInitialize { //nolint:errorlint // a bare code; Is compares other things
		t.Fatalf("start up TPM: %v", err)
	}
}

func readPEM(t testing.TB, path string) []byte {
	t.Helper()
	b, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	block, _ := pem.Decode(b)
	if block == nil {
		t.Fatalf("%s is not PEM", path)
	}
	return block.Bytes
}

package tpmtest

import (
	"bytes"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/asn1"
	"fmt"
	"math/big"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"testing/fstest"
	"time"

	"github.com/google/go-tpm/tpm2"

	"github.com/sealboot/sealboot/measure/pcr"
	"github.com/sealboot/sealboot/measure/tpm"
)

// made is a TPM as it left the factory.
type made struct {
	state fstest.MapFS
	ca    []byte
	cert  *x509.Certificate
}

// The factory makes each TPM once a process, under one CA. It is state of the
// process because making a TPM takes a second and every test needs one; it is
// held in memory, some kilobytes, so that nothing is left behind.
var factory struct {
	sync.Mutex
	ca   fstest.MapFS
	made map[string]made
}

// manufacture returns the TPM that opts describe, switched off.
func manufacture(t testing.TB, opts Options) made {
	t.Helper()
	factory.Lock()
	defer factory.Unlock()
	key := fmt.Sprint(opts.EK, opts.Banks, opts.Identity)
	if m, ok := factory.made[key]; ok {
		return m
	}
	m := makeTPM(t, opts)
	if factory.made == nil {
		factory.made = make(map[string]made)
	}
	factory.made[key] = m
	return m
}

func makeTPM(t testing.TB, opts Options) made {
	t.Helper()
	dir := tempDir(t)
	ca, state := filepath.Join(dir, "ca"), filepath.Join(dir, "state")
	configureCA(t, dir, ca)
	if err := os.Mkdir(state, 0o700); err != nil {
		t.Fatal(err)
	}
	var banks []string
	for _, b := range opts.Banks {
		banks = append(banks, pcr.BankName(b))
	}
	out, err := exec.Command("swtpm_setup", "--tpm2", "--tpm-state", state, "--create-ek-cert",
		"--config", filepath.Join(dir, "setup.conf"), "--pcr-banks", strings.Join(banks, ",")).CombinedOutput()
	if err != nil {
		t.Fatalf("swtpm_setup: %v\n%s", err, out)
	}
	var m made
	m.cert = finish(t, state, ca, opts.EK)
	m.state = snapshot(t, state)
	factory.ca = snapshot(t, ca)
	for _, name := range []string{"issuercert.pem", "swtpm-localca-rootca-cert.pem"} {
		m.ca = append(m.ca, factory.ca[name].Data...)
	}
	return m
}

// configureCA gives swtpm_setup a CA of our own, so that nothing outside of dir
// is read or written. It is the one that was used before, if there was one.
func configureCA(t testing.TB, dir, ca string) {
	t.Helper()
	config := fstest.MapFS{
		"setup.conf": {Data: []byte("create_certs_tool = swtpm_localca\n" +
			"create_certs_tool_config = " + dir + "/localca.conf\n" +
			"create_certs_tool_options = " + dir + "/localca.options\n")},
		"localca.conf": {Data: []byte("statedir = " + ca + "\nsigningkey = " + ca + "/signkey.pem\n" +
			"issuercert = " + ca + "/issuercert.pem\ncertserial = " + ca + "/certserial\n")},
		"localca.options": {Data: []byte("--platform-manufacturer Sealboot\n--platform-version 1.0\n--platform-model test\n")},
	}
	if err := os.CopyFS(dir, config); err != nil {
		t.Fatal(err)
	}
	if err := os.CopyFS(ca, factory.ca); err != nil {
		t.Fatal(err)
	}
	if err := os.MkdirAll(ca, 0o700); err != nil {
		t.Fatal(err)
	}
}

// snapshot reads the regular files of a directory.
func snapshot(t testing.TB, dir string) fstest.MapFS {
	t.Helper()
	entries, err := os.ReadDir(dir)
	if err != nil {
		t.Fatal(err)
	}
	files := make(fstest.MapFS)
	for _, entry := range entries {
		if !entry.Type().IsRegular() {
			continue
		}
		data, err := os.ReadFile(filepath.Join(dir, entry.Name()))
		if err != nil {
			t.Fatal(err)
		}
		files[entry.Name()] = &fstest.MapFile{Data: data}
	}
	return files
}

// finish takes away the EKs that the TPM should not have, adds the one that
// swtpm_setup cannot make, and returns the certificate that remains.
func finish(t testing.TB, state, ca string, ek EK) *x509.Certificate {
	t.Helper()
	e := startEmulator(t, state, false)
	defer e.stop()
	if ek != RSA2048 {
		remove(t, e.tpm, RSA2048Index, rsa2048Handle)
	}
	if ek != P384 {
		remove(t, e.tpm, P384Index, p384Handle)
	}
	var cert *x509.Certificate
	switch ek {
	case RSA2048:
		cert = readCert(t, e.tpm, RSA2048Index)
	case P384:
		cert = readCert(t, e.tpm, P384Index)
	case P256:
		issueP256(t, e.tpm, ca)
		cert = readCert(t, e.tpm, P256Index)
	}
	if _, err := (tpm2.Shutdown{ShutdownType: tpm2.TPMSUClear}).Execute(e.tpm); err != nil {
		t.Fatal(err)
	}
	return cert
}

func remove(t testing.TB, conn *tpm.TPM, index, key tpm2.TPMHandle) {
	t.Helper()
	_, name, err := conn.NVPublic(t.Context(), index)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := (tpm2.NVUndefineSpace{
		AuthHandle: tpm2.AuthHandle{Handle: tpm2.TPMRHPlatform, Auth: tpm2.PasswordAuth(nil)},
		NVIndex:    tpm2.NamedHandle{Handle: index, Name: name},
	}).Execute(conn); err != nil {
		t.Fatalf("remove EK certificate: %v", err)
	}
	pub, err := tpm2.ReadPublic{ObjectHandle: key}.Execute(conn)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := (tpm2.EvictControl{
		Auth:             tpm2.AuthHandle{Handle: tpm2.TPMRHOwner, Auth: tpm2.PasswordAuth(nil)},
		ObjectHandle:     &tpm2.NamedHandle{Handle: key, Name: pub.Name},
		PersistentHandle: key,
	}).Execute(conn); err != nil {
		t.Fatalf("remove EK: %v", err)
	}
}

func readCert(t testing.TB, conn *tpm.TPM, index tpm2.TPMHandle) *x509.Certificate {
	t.Helper()
	der, err := conn.ReadNV(t.Context(), index)
	if err != nil {
		t.Fatal(err)
	}
	cert, err := x509.ParseCertificate(der)
	if err != nil {
		t.Fatal(err)
	}
	return cert
}

// issueP256 makes the P-256 EK of the low-range template and has the factory's CA
// certify it.
func issueP256(t testing.TB, conn *tpm.TPM, ca string) {
	t.Helper()
	created, err := tpm2.CreatePrimary{
		PrimaryHandle: tpm2.TPMRHEndorsement,
		InPublic:      tpm2.New2B(tpm2.ECCEKTemplate),
	}.Execute(conn)
	if err != nil {
		t.Fatalf("create P-256 EK: %v", err)
	}
	defer tpm2.FlushContext{FlushHandle: created.ObjectHandle}.Execute(conn) //nolint:errcheck // the TPM is shut down next
	public, err := created.OutPublic.Contents()
	if err != nil {
		t.Fatal(err)
	}
	key, err := tpm2.Pub(*public)
	if err != nil {
		t.Fatal(err)
	}
	issuer, err := x509.ParseCertificate(readPEM(t, filepath.Join(ca, "issuercert.pem")))
	if err != nil {
		t.Fatal(err)
	}
	der, err := x509.CreateCertificate(rand.Reader, &x509.Certificate{
		SerialNumber:          big.NewInt(time.Now().UnixNano()),
		Subject:               pkix.Name{CommonName: "P-256 EK"},
		NotBefore:             issuer.NotBefore,
		NotAfter:              issuer.NotAfter,
		KeyUsage:              x509.KeyUsageKeyAgreement,
		BasicConstraintsValid: true,
		// tcg-kp-EKCertificate, TCG EK Credential Profile 3.2.16.
		UnknownExtKeyUsage: []asn1.ObjectIdentifier{{2, 23, 133, 8, 1}},
	}, issuer, key, signingKey(t, filepath.Join(ca, "signkey.pem")))
	if err != nil {
		t.Fatal(err)
	}
	writeNV(t, conn, P256Index, der)
}

func signingKey(t testing.TB, path string) any {
	t.Helper()
	der := readPEM(t, path)
	key, err := x509.ParsePKCS8PrivateKey(der)
	if err == nil {
		return key
	}
	rsaKey, err := x509.ParsePKCS1PrivateKey(der)
	if err != nil {
		t.Fatal(err)
	}
	return rsaKey
}

// writeNV defines an index as a TPM's manufacturer does for a certificate.
func writeNV(t testing.TB, conn *tpm.TPM, index tpm2.TPMHandle, data []byte) {
	t.Helper()
	platform := tpm2.AuthHandle{Handle: tpm2.TPMRHPlatform, Auth: tpm2.PasswordAuth(nil)}
	_, err := tpm2.NVDefineSpace{
		AuthHandle: platform,
		PublicInfo: tpm2.New2B(tpm2.TPMSNVPublic{
			NVIndex: index,
			NameAlg: tpm2.TPMAlgSHA256,
			Attributes: tpm2.TPMANV{PPWrite: true, WriteDefine: true, PPRead: true, OwnerRead: true,
				AuthRead: true, NoDA: true, PlatformCreate: true},
			DataSize: uint16(len(data)),
		}),
	}.Execute(conn)
	if err != nil {
		t.Fatalf("define NV index: %v", err)
	}
	for offset, rest := 0, bytes.NewBuffer(data); rest.Len() > 0; {
		chunk := rest.Next(512)
		_, name, err := conn.NVPublic(t.Context(), index)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := (tpm2.NVWrite{
			AuthHandle: platform,
			NVIndex:    tpm2.NamedHandle{Handle: index, Name: name},
			Data:       tpm2.TPM2BMaxNVBuffer{Buffer: chunk},
			Offset:     uint16(offset),
		}).Execute(conn); err != nil {
			t.Fatalf("write NV index: %v", err)
		}
		offset += len(chunk)
	}
}

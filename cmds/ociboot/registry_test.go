package main

import (
	"crypto/tls"
	"crypto/x509"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"cuelabs.dev/go/oci/ociregistry/ocimem"
	"cuelabs.dev/go/oci/ociregistry/ociserver"

	"github.com/sealboot/sealboot/boot/boottest/ocitest"
	"github.com/sealboot/sealboot/boot/publish/ocipush"
	"github.com/sealboot/sealboot/boot/source/oci"
	"github.com/sealboot/sealboot/cmds/internal/loader"
)

// selfSigned makes a certificate for 127.0.0.1 and its key, both as files.
func selfSigned(t *testing.T) (certFile, keyFile string) {
	t.Helper()
	cert, key := ocitest.Certificate(t, time.Now().Add(-time.Hour))
	return file(t, cert), file(t, key)
}

// file writes a file and returns its path.
func file(t *testing.T, content []byte) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "file")
	if err := os.WriteFile(path, content, 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}

// TestRegistryAuth has a registry with a private CA that wants a client certificate
// and a password.
func TestRegistryAuth(t *testing.T) {
	registry := ociserver.New(ocimem.New(), nil)
	s := httptest.NewUnstartedServer(ocitest.Locked(registry, "box", "opensesame"))
	cert, key := selfSigned(t)
	other, otherKey := selfSigned(t)
	pair, err := tls.LoadX509KeyPair(cert, key)
	if err != nil {
		t.Fatal(err)
	}
	ca, err := os.ReadFile(cert)
	if err != nil {
		t.Fatal(err)
	}
	pool := x509.NewCertPool()
	pool.AppendCertsFromPEM(ca)
	s.TLS = &tls.Config{Certificates: []tls.Certificate{pair}, ClientAuth: tls.RequireAndVerifyClientCert, ClientCAs: pool}
	s.StartTLS()
	defer s.Close()
	addr := strings.TrimPrefix(s.URL, "https://")
	fill(t, registry, layout(t))
	good, wrong := file(t, ocitest.DockerConfig(addr, "box", "opensesame")), file(t, ocitest.DockerConfig(addr, "box", "closesesame"))
	for name, c := range map[string]struct {
		args []string
		code int
	}{
		"everything":          {[]string{"--ca", cert, "--client-cert", cert, "--client-key", key, "--auth", good}, loader.ExitOK},
		"wrong password":      {[]string{"--ca", cert, "--client-cert", cert, "--client-key", key, "--auth", wrong}, loader.ExitFailed},
		"no password":         {[]string{"--ca", cert, "--client-cert", cert, "--client-key", key}, loader.ExitFailed},
		"no certificate":      {[]string{"--ca", cert, "--auth", good}, loader.ExitFailed},
		"another certificate": {[]string{"--ca", cert, "--client-cert", other, "--client-key", otherKey, "--auth", good}, loader.ExitFailed},
		"another CA":          {[]string{"--ca", other, "--client-cert", cert, "--client-key", key, "--auth", good}, loader.ExitFailed},
		"another key":         {[]string{"--ca", cert, "--client-cert", cert, "--client-key", otherKey}, loader.ExitUsage},
		"no key":              {[]string{"--ca", cert, "--client-cert", cert}, loader.ExitUsage},
	} {
		t.Run(name, func(t *testing.T) {
			code, out, diag := output(t, append(append([]string{"--dry-run"}, c.args...), addr+"/os:v1")...)
			if code != c.code || (out == "") != (c.code != loader.ExitOK) || strings.Contains(diag, "sesame") {
				t.Errorf("exit code %d, want %d\n%s%s", code, c.code, diag, out)
			}
		})
	}
}

// fill copies the image of a layout directory to a registry as os:v1.
func fill(t *testing.T, registry http.Handler, dir string) {
	t.Helper()
	s := httptest.NewServer(registry)
	defer s.Close()
	conn := oci.Connection{PlainHTTP: true}
	from, err := ocipush.ParseLocation("oci:" + dir + ":v1")
	if err != nil {
		t.Fatal(err)
	}
	src, err := from.Source(t.Context(), conn)
	if err != nil {
		t.Fatal(err)
	}
	defer src.Close()
	to, err := ocipush.ParseLocation(strings.TrimPrefix(s.URL, "http://") + "/os:v1")
	if err != nil {
		t.Fatal(err)
	}
	dst, err := to.Target(t.Context(), conn)
	if err != nil {
		t.Fatal(err)
	}
	defer dst.Close()
	if _, err := ocipush.Copy(t.Context(), src, dst, ocipush.CopyOptions{}); err != nil {
		t.Fatal(err)
	}
}

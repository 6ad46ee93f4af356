package store

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"errors"
	"fmt"
	"math/big"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/jackc/pgx/v5/stdlib"
)

// TestLinkIsRefused reads URLs, and what pgx adds to them, whose server is not authenticated.
func TestLinkIsRefused(t *testing.T) {
	service := filepath.Join(t.TempDir(), "services")
	text := "[remote]\nhost=db.example\nsslmode=require\n[local]\nhost=localhost\n"
	if err := os.WriteFile(service, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	authority := writeCA(t, newAuthority(t))
	for name, c := range map[string]struct {
		dsn string
		env map[string]string
		ok  bool
	}{
		"nothing said":             {dsn: "postgres://a@db.example/x"},
		"disable":                  {dsn: "postgres://a@db.example/x?sslmode=disable"},
		"allow":                    {dsn: "postgres://a@db.example/x?sslmode=allow"},
		"prefer":                   {dsn: "postgres://a@db.example/x?sslmode=prefer"},
		"require":                  {dsn: "postgres://a@db.example/x?sslmode=require"},
		"require, as verify-ca":    {dsn: "postgres://a@db.example/x?sslmode=require&sslrootcert=" + authority},
		"verify-ca":                {dsn: "postgres://a@db.example/x?sslmode=verify-ca&sslrootcert=" + authority},
		"address":                  {dsn: "postgres://a@192.0.2.1/x"},
		"IPv6 address":             {dsn: "postgres://a@[2001:db8::1]/x"},
		"other scheme":             {dsn: "postgresql://a@db.example/x"},
		"direct":                   {dsn: "postgres://a@db.example/x?sslnegotiation=direct"},
		"mixed hosts":              {dsn: "postgres://a@localhost,db.example/x"},
		"mixed hosts, other order": {dsn: "postgres://a@db.example,127.0.0.1/x?sslmode=disable"},
		"socket and host":          {dsn: "postgres://a@/x?host=/run/postgresql,db.example"},
		"host in the query":        {dsn: "postgres://a@localhost/x?host=db.example"},
		"looks like localhost":     {dsn: "postgres://a@localhost.example/x"},
		"looks like a socket":      {dsn: `postgres://a@/x?host=C:\x`},
		"name of a socket":         {dsn: "postgres://a@/x?host=@abstract"},
		"all addresses":            {dsn: "postgres://a@0.0.0.0/x"},
		"mistyped scheme":          {dsn: "postgress://a@db.example/x"},
		"hostaddr":                 {dsn: "postgres://a@localhost/x?hostaddr=192.0.2.1"},
		"host of the environment":  {dsn: "postgres://a@/x", env: map[string]string{"PGHOST": "db.example"}},
		"mode of the environment":  {dsn: "postgres://a@db.example/x", env: map[string]string{"PGSSLMODE": "require"}},
		"service":                  {dsn: "postgres://a@/x?service=remote&servicefile=" + service},
		"service of the environment": {
			dsn: "postgres:///x", env: map[string]string{"PGSERVICE": "remote", "PGSERVICEFILE": service}},

		"verify-full":              {dsn: "postgres://a@db.example/x?sslmode=verify-full&sslrootcert=" + authority, ok: true},
		"verify-full for an IP":    {dsn: "postgres://a@192.0.2.1/x?sslmode=verify-full&sslsni=0", ok: true},
		"verify-full for two":      {dsn: "postgres://a@db1.example,db2.example/x?sslmode=verify-full", ok: true},
		"the system's authorities": {dsn: "postgres://a@db.example/x?sslrootcert=system", ok: true},
		"mode of the environment, verify-full": {
			dsn: "postgres://a@db.example/x", env: map[string]string{"PGSSLMODE": "verify-full"}, ok: true},
		"socket":        {dsn: "postgres://a@/x?host=/run/postgresql", ok: true},
		"localhost":     {dsn: "postgres://a@localhost/x", ok: true},
		"loopback":      {dsn: "postgres://a@127.0.0.2/x?sslmode=disable", ok: true},
		"loopback IPv6": {dsn: "postgres://a@[::1]/x", ok: true},
		"local service": {dsn: "postgres://a@/x?service=local&servicefile=" + service, ok: true},
		"a file":        {dsn: "attestd.db", ok: true},
	} {
		t.Run(name, func(t *testing.T) {
			for _, unset := range []string{"PGHOST", "PGSSLMODE", "PGSERVICE", "PGSERVICEFILE", "PGSSLROOTCERT"} {
				t.Setenv(unset, "")
			}
			for k, v := range c.env {
				t.Setenv(k, v)
			}
			err := CheckDSN(c.dsn)
			if c.ok && err != nil {
				t.Errorf("refused: %v", err)
			}
			if !c.ok && !errors.Is(err, ErrLink) && (err == nil || !strings.Contains(err.Error(), "hostaddr") && !strings.Contains(err.Error(), "scheme")) {
				t.Errorf("CheckDSN() = %v, want ErrLink, or what is wrong with the URL", err)
			}
		})
	}
}

// TestOpenRefusesTheLink: nothing is connected to when one of the hosts is not authenticated, and no password is shown.
func TestOpenRefusesTheLink(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	key := newAuthority(t).key
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second) // the listener says nothing
	defer cancel()
	dsn := fmt.Sprintf("postgres://a:geheim@127.0.0.1:%d,db.example:1/x", l.Addr().(*net.TCPAddr).Port)
	_, err = Open(ctx, Config{DSN: dsn, Replica: "a", Signer: key})
	if !errors.Is(err, ErrLink) || !strings.Contains(err.Error(), "verify-full") || strings.Contains(err.Error(), "geheim") {
		t.Errorf("Open() = %v, want ErrLink and what to do", err)
	}
	for _, broken := range []string{"postgres://a:geheim@db.example:1x/y", "postgres://a:geheim@db.example/%zz", "postgres://a@db.example/x?sslmode=geheim"} {
		if _, err := Open(ctx, Config{DSN: broken, Replica: "a", Signer: key}); err == nil || strings.Contains(err.Error(), "geheim") || strings.Contains(err.Error(), "``") {
			t.Errorf("Open(a broken URL) = %v, want an error without the URL, or what stands for it", err)
		}
	}
}

// TestLinkToPostgres connects to a PostgreSQL that says no to TLS and to one that speaks it, under the name db.example.
func TestLinkToPostgres(t *testing.T) {
	good, other := newAuthority(t), newAuthority(t)
	cert, key := good.serverFor(t, "db.example")
	plain := postgresAt(t, nil, "-c", "ssl=off")
	files := map[string][]byte{"server.crt": cert, "server.key": key}
	secure := postgresAt(t, files, "-c", "ssl=on", "-c", "ssl_cert_file=../server.crt", "-c", "ssl_key_file=../server.key")
	ca, otherCA := writeCA(t, good), writeCA(t, other)
	t.Setenv("PGSSLMODE", "")
	for name, c := range map[string]struct {
		server int
		host   string
		query  string
		want   string // in the error; "" is a connection
	}{
		"no TLS":            {plain, "db.example", "sslmode=verify-full&sslrootcert=" + ca, "server refused TLS"},
		"other authority":   {secure, "db.example", "sslmode=verify-full&sslrootcert=" + otherCA, "unknown authority"},
		"no authority":      {secure, "db.example", "sslmode=verify-full", "certificate"},
		"other name":        {secure, "other.example", "sslmode=verify-full&sslrootcert=" + ca, "not other.example"},
		"right":             {secure, "db.example", "sslmode=verify-full&sslrootcert=" + ca, ""},
		"this machine":      {plain, "127.0.0.1", "sslmode=disable", ""},
		"this machine, TLS": {secure, "localhost", "sslmode=require", ""},
	} {
		t.Run(name, func(t *testing.T) {
			err := ping(t, fmt.Sprintf("postgres://sealboot@%s:%d/postgres?%s", c.host, c.server, c.query), nil)
			if c.want == "" && err != nil {
				t.Error(err)
			}
			if c.want != "" && (err == nil || !strings.Contains(err.Error(), c.want)) {
				t.Errorf("connected, or failed otherwise: %v, want %q", err, c.want)
			}
		})
	}
}

// TestLocalhostElsewhere resolves localhost to another machine, by DNS or /etc/hosts: what was allowed as this machine
// is not, whatever TLS it speaks, before a password or SQL was said.
func TestLocalhostElsewhere(t *testing.T) {
	good := newAuthority(t)
	cert, key := good.serverFor(t, "localhost")
	files := map[string][]byte{"server.crt": cert, "server.key": key}
	server := postgresAt(t, files, "-c", "ssl=on", "-c", "ssl_cert_file=../server.crt", "-c", "ssl_key_file=../server.key")
	elsewhere := &net.TCPAddr{IP: net.IPv4(192, 0, 2, 7), Port: server}
	for query, ok := range map[string]bool{
		"sslmode=disable": false, "sslmode=prefer": false, "sslmode=require": false, "sslmode=verify-ca&sslrootcert=" + writeCA(t, good): false,
		"sslmode=verify-full&sslrootcert=" + writeCA(t, good): true,
	} {
		err := ping(t, fmt.Sprintf("postgres://sealboot@localhost:%d/postgres?%s", server, query), elsewhere)
		if ok && err != nil || !ok && !errors.Is(err, ErrLink) {
			t.Errorf("%s: %v, want to connect: %t", query, err, ok)
		}
	}
}

// ping connects as a store does. All names lead to this machine, whose address is shown as another if one is given.
func ping(t *testing.T, dsn string, as net.Addr) error {
	t.Helper()
	c, err := parsePostgres(dsn)
	if err != nil {
		t.Fatal(err)
	}
	c.LookupFunc = func(context.Context, string) ([]string, error) { return []string{"127.0.0.1"}, nil }
	dial := c.DialFunc
	c.DialFunc = func(ctx context.Context, network, addr string) (net.Conn, error) {
		conn, err := dial(ctx, network, addr)
		if err == nil && as != nil {
			conn = movedConn{conn, as}
		}
		return conn, err
	}
	db := stdlib.OpenDB(*c)
	defer db.Close()
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	return db.PingContext(ctx)
}

type movedConn struct {
	net.Conn
	at net.Addr
}

func (c movedConn) RemoteAddr() net.Addr { return c.at }

// postgresAt runs a PostgreSQL of its own on the loopback and returns its port.
func postgresAt(t *testing.T, files map[string][]byte, options ...string) int {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	port := l.Addr().(*net.TCPAddr).Port
	if err := l.Close(); err != nil {
		t.Fatal(err)
	}
	dir, stop := runPostgres(t, files, append(options, "-c", "listen_addresses=127.0.0.1", "-c", fmt.Sprintf("port=%d", port))...)
	if dir == "" {
		skipWithoutPostgres(t)
	}
	t.Cleanup(stop)
	waitFor(t, fmt.Sprintf("postgres://sealboot@/postgres?host=%s&port=%d&sslmode=disable", dir, port))
	return port
}

// authority signs the certificates of servers.
type authority struct {
	key  *ecdsa.PrivateKey
	cert *x509.Certificate
}

func newAuthority(t *testing.T) authority {
	t.Helper()
	template := &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "databases"}, IsCA: true, BasicConstraintsValid: true,
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour), KeyUsage: x509.KeyUsageCertSign,
	}
	key, der := certify(t, template, template, nil)
	cert, err := x509.ParseCertificate(der)
	if err != nil {
		t.Fatal(err)
	}
	return authority{key, cert}
}

// serverFor makes the PEM files of a server.
func (a authority) serverFor(t *testing.T, name string) (cert, key []byte) {
	t.Helper()
	k, der := certify(t, &x509.Certificate{
		SerialNumber: big.NewInt(2), Subject: pkix.Name{CommonName: name}, DNSNames: []string{name},
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour),
		ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth},
	}, a.cert, a.key)
	private, err := x509.MarshalECPrivateKey(k)
	if err != nil {
		t.Fatal(err)
	}
	return pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der}), pem.EncodeToMemory(&pem.Block{Type: "EC PRIVATE KEY", Bytes: private})
}

// certify makes a key and its certificate, by signer or, without one, by itself.
func certify(t *testing.T, template, parent *x509.Certificate, signer *ecdsa.PrivateKey) (*ecdsa.PrivateKey, []byte) {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	if signer == nil {
		signer = key
	}
	der, err := x509.CreateCertificate(rand.Reader, template, parent, &key.PublicKey, signer)
	if err != nil {
		t.Fatal(err)
	}
	return key, der
}

func writeCA(t *testing.T, a authority) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "ca.pem")
	if err := os.WriteFile(path, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: a.cert.Raw}), 0o644); err != nil {
		t.Fatal(err)
	}
	return path
}

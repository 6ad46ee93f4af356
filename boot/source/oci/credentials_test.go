package oci_test

import (
	"crypto/ecdsa"
	"crypto/rand"
	"crypto/sha256"
	"crypto/tls"
	"crypto/x509"
	"encoding/base64"
	"encoding/json"
	"encoding/pem"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"net/url"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"golang.org/x/crypto/bcrypt"

	"github.com/sealboot/sealboot/boot/boottest/ocitest"
	"github.com/sealboot/sealboot/boot/source/oci"
)

// files writes files to a directory of the test, and returns their paths.
func files(t *testing.T, contents ...[]byte) (paths []string) {
	t.Helper()
	dir := t.TempDir()
	for i, c := range contents {
		path := filepath.Join(dir, fmt.Sprint(i))
		if err := os.WriteFile(path, c, 0o600); err != nil {
			t.Fatal(err)
		}
		paths = append(paths, path)
	}
	return paths
}

// TestHtpasswd has Debian's docker-registry with TLS by a private CA, client
// certificates, and passwords that come from a config.json.
func TestHtpasswd(t *testing.T) {
	hash, err := bcrypt.GenerateFromPassword([]byte("secret"), bcrypt.MinCost)
	if err != nil {
		t.Fatal(err)
	}
	cert, key := ocitest.Certificate(t, time.Now().Add(-time.Hour))
	f := files(t, cert, key, fmt.Appendf(nil, "device:%s\n", hash))
	addr := dockerRegistry(t,
		fmt.Sprintf("  tls: {certificate: %s, key: %s, clientcas: [%s]}\n", f[0], f[1], f[0]),
		fmt.Sprintf("auth: {htpasswd: {realm: test, path: %s}}\n", f[2]))
	good := oci.Connection{CA: cert, Cert: cert, Key: key, DockerConfig: ocitest.DockerConfig(addr, "device", "secret")}
	layer := random(5 << 20)
	pushImage(t, openRemote(t, addr+"/os/test:v1", good).Repository(), "v1", layer)
	if err := open(t, addr+"/os/test:v1", good, layer); err != nil {
		t.Fatal(err)
	}
	otherCert, otherKey := ocitest.Certificate(t, time.Now().Add(-time.Hour))
	for name, change := range map[string]func(*oci.Connection){
		"wrong password":             func(c *oci.Connection) { c.DockerConfig = ocitest.DockerConfig(addr, "device", "secret2") },
		"wrong user":                 func(c *oci.Connection) { c.DockerConfig = ocitest.DockerConfig(addr, "devise", "secret") },
		"another host's credentials": func(c *oci.Connection) { c.DockerConfig = ocitest.DockerConfig("other.test", "device", "secret") },
		"anonymous":                  func(c *oci.Connection) { c.DockerConfig = nil },
		"no client certificate":      func(c *oci.Connection) { c.Cert, c.Key = nil, nil },
		"another client certificate": func(c *oci.Connection) { c.Cert, c.Key = otherCert, otherKey },
		"another CA":                 func(c *oci.Connection) { c.CA = otherCert },
		"no TLS":                     func(c *oci.Connection) { c.PlainHTTP = true },
	} {
		conn := good
		change(&conn)
		err := open(t, addr+"/os/test:v1", conn, layer)
		if err == nil {
			t.Errorf("%s: opened", name)
		} else if strings.Contains(err.Error(), "secret") {
			t.Errorf("%s: the error shows the password: %v", name, err)
		}
	}
}

// TestDockerToken has Debian's docker-registry believe a token service, which wants a password.
func TestDockerToken(t *testing.T) {
	cert, keyPEM := ocitest.Certificate(t, time.Now().Add(-time.Hour))
	block, _ := pem.Decode(keyPEM)
	key, err := x509.ParsePKCS8PrivateKey(block.Bytes)
	if err != nil {
		t.Fatal(err)
	}
	service := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		user, password, _ := r.BasicAuth()
		if user != "device" || password != "secret" {
			w.WriteHeader(http.StatusUnauthorized)
			return
		}
		_ = json.NewEncoder(w).Encode(map[string]string{"token": jwt(t, cert, key.(*ecdsa.PrivateKey), r.URL.Query())})
	}))
	defer service.Close()
	f := files(t, cert)
	addr := dockerRegistry(t, fmt.Sprintf("auth: {token: {realm: %q, service: registry, issuer: test, rootcertbundle: %s}}\n", service.URL+"/token", f[0]))
	conn := oci.Connection{PlainHTTP: true, DockerConfig: ocitest.DockerConfig(addr, "device", "secret")}
	layer := random(100)
	pushImage(t, openRemote(t, addr+"/os/test:v1", conn).Repository(), "v1", layer)
	if err := open(t, addr+"/os/test:v1", conn, layer); err != nil {
		t.Error(err)
	}
	conn.DockerConfig = ocitest.DockerConfig(addr, "device", "wrong")
	if err := open(t, addr+"/os/test:v1", conn, layer); err == nil {
		t.Error("opened with a wrong password")
	}
}

// jwt grants what is asked for, in the form that the registry expects.
func jwt(t *testing.T, cert []byte, key *ecdsa.PrivateKey, query url.Values) string {
	block, _ := pem.Decode(cert)
	kind, rest, _ := strings.Cut(query.Get("scope"), ":")
	name, actions, _ := strings.Cut(rest, ":")
	now := time.Now().Unix()
	part := func(v any) string {
		b, err := json.Marshal(v)
		if err != nil {
			t.Error(err)
		}
		return base64.RawURLEncoding.EncodeToString(b)
	}
	text := part(map[string]any{"typ": "JWT", "alg": "ES256", "x5c": []string{base64.StdEncoding.EncodeToString(block.Bytes)}}) + "." +
		part(map[string]any{
			"iss": "test", "sub": "device", "aud": query.Get("service"), "exp": now + 300, "nbf": now - 10, "iat": now, "jti": "1",
			"access": []map[string]any{{"type": kind, "name": name, "actions": strings.Split(actions, ",")}},
		})
	sum := sha256.Sum256([]byte(text))
	r, s, err := ecdsa.Sign(rand.Reader, key, sum[:])
	if err != nil {
		t.Error(err)
		return ""
	}
	sig := make([]byte, 64)
	r.FillBytes(sig[:32])
	s.FillBytes(sig[32:])
	return text + "." + base64.RawURLEncoding.EncodeToString(sig)
}

// eavesdropper answers in one way and keeps the secrets that it is sent.
type eavesdropper struct {
	answer http.HandlerFunc

	mu    sync.Mutex
	seen  int
	heard []string
}

func (e *eavesdropper) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	body, _ := io.ReadAll(r.Body)
	e.mu.Lock()
	e.seen++
	for name, values := range r.Header {
		for _, v := range values {
			if strings.Contains(name, "Authorization") {
				e.heard = append(e.heard, v)
			}
		}
	}
	if strings.Contains(string(body)+r.URL.String(), "secret") {
		e.heard = append(e.heard, r.URL.String(), string(body))
	}
	e.mu.Unlock()
	e.answer(w, r)
}

// report is how many requests there were, and the secrets in them.
func (e *eavesdropper) report() (seen int, heard []string) {
	e.mu.Lock()
	defer e.mu.Unlock()
	return e.seen, slices.Clone(e.heard)
}

// TestCredentialsStay: whatever a registry answers, its credentials are shown to
// no one else, and not without TLS.
func TestCredentialsStay(t *testing.T) {
	layer := random(100)
	reg := registryWith(t, layer)
	serve := reg.ServeHTTP
	challenge := func(header string) http.HandlerFunc {
		return func(w http.ResponseWriter, _ *http.Request) {
			w.Header().Set("WWW-Authenticate", header)
			w.WriteHeader(http.StatusUnauthorized)
		}
	}
	for _, tt := range []struct {
		name  string
		other http.HandlerFunc          // what the other host answers
		blobs func(other string) string // where blobs are redirected to
		realm func(other string) string // of the registry's challenge; empty: its own is basic
		token bool                      // credentials are a token for the token service
		opens bool
	}{
		{name: "blobs on another host", other: serve, blobs: func(o string) string { return o }, opens: true},
		{name: "blobs on another host that asks for a password", other: challenge(`Basic realm="x"`), blobs: func(o string) string { return o }},
		{name: "blobs on another host that sends to a token service", other: challenge(`Bearer realm="https://127.0.0.1:1/token",service="x"`), blobs: func(o string) string { return o }},
		{name: "a token service without TLS", other: serve, realm: func(o string) string { return o + "/token" }},
		{name: "a token service without TLS, and a token", other: serve, realm: func(o string) string { return o + "/token" }, token: true},
	} {
		for _, secure := range []bool{true, false} {
			t.Run(fmt.Sprintf("%s, TLS %v", tt.name, secure), func(t *testing.T) {
				cert, key := ocitest.Certificate(t, time.Now().Add(-time.Hour))
				pair, err := tls.X509KeyPair(cert, key)
				if err != nil {
					t.Fatal(err)
				}
				start := func(h http.Handler, secure bool) *httptest.Server {
					s := httptest.NewUnstartedServer(h)
					s.Config.ErrorLog = nil
					if s.TLS = (&tls.Config{Certificates: []tls.Certificate{pair}}); secure {
						s.StartTLS()
					} else {
						s.Start()
					}
					t.Cleanup(s.Close)
					return s
				}
				e := &eavesdropper{answer: tt.other}
				other := start(e, secure && tt.realm == nil)
				var authorized atomic.Int64
				s := start(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
					user, password, _ := r.BasicAuth()
					switch {
					case tt.realm != nil:
						challenge(fmt.Sprintf(`Bearer realm=%q,service="x"`, tt.realm(other.URL)))(w, r)
					case user != "device" || password != "secret":
						challenge(`Basic realm="test"`)(w, r)
					case strings.Contains(r.URL.Path, "/blobs/"):
						http.Redirect(w, r, tt.blobs(other.URL)+r.URL.Path, http.StatusTemporaryRedirect)
					default:
						authorized.Add(1)
						reg.ServeHTTP(w, r)
					}
				}), secure)
				config := ocitest.DockerConfig(host(s), "device", "secret")
				if tt.token {
					config = fmt.Appendf(nil, `{"auths":{%q:{"identitytoken":"secret"}}}`, host(s))
				}
				err = open(t, host(s)+"/os:v1", oci.Connection{PlainHTTP: !secure, CA: cert, DockerConfig: config}, layer)
				if (err == nil) != tt.opens {
					t.Errorf("error is %v", err)
				}
				if err != nil && strings.Contains(err.Error(), "secret") {
					t.Errorf("the error shows the secret: %v", err)
				}
				seen, heard := e.report()
				if tt.realm == nil && (authorized.Load() == 0 || seen == 0) {
					t.Errorf("%d requests with credentials, %d to the other host", authorized.Load(), seen)
				}
				told := !secure && tt.realm != nil // without TLS, as it was told to
				if (len(heard) > 0) != told {
					t.Errorf("the other host was sent %q", heard)
				}
			})
		}
	}
}

// TestCertificateStays: a client certificate says who the machine is. The registry
// learns that, and neither where it redirects nor another token service does.
func TestCertificateStays(t *testing.T) {
	layer := random(100)
	reg := registryWith(t, layer)
	cert, key := ocitest.Certificate(t, time.Now().Add(-time.Hour))
	pair, err := tls.X509KeyPair(cert, key)
	if err != nil {
		t.Fatal(err)
	}
	// start serves h with TLS and counts requests with and without a certificate.
	start := func(h http.HandlerFunc) (s *httptest.Server, known, unknown *atomic.Int64) {
		known, unknown = new(atomic.Int64), new(atomic.Int64)
		s = httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			if len(r.TLS.PeerCertificates) > 0 {
				known.Add(1)
			} else {
				unknown.Add(1)
			}
			h(w, r)
		}))
		s.TLS = &tls.Config{Certificates: []tls.Certificate{pair}, ClientAuth: tls.RequestClientCert}
		s.StartTLS()
		t.Cleanup(s.Close)
		return s, known, unknown
	}
	blobs, blobsKnow, blobsSaw := start(reg.ServeHTTP)
	tokens, tokensKnow, tokensSaw := start(func(w http.ResponseWriter, _ *http.Request) { _, _ = io.WriteString(w, `{"token":"pass"}`) })
	home, know, _ := start(func(w http.ResponseWriter, r *http.Request) {
		switch {
		case r.Header.Get("Authorization") != "Bearer pass":
			w.Header().Set("WWW-Authenticate", fmt.Sprintf(`Bearer realm=%q,service="x"`, tokens.URL))
			w.WriteHeader(http.StatusUnauthorized)
		case strings.Contains(r.URL.Path, "/blobs/"):
			http.Redirect(w, r, blobs.URL+r.URL.Path, http.StatusTemporaryRedirect)
		default:
			reg.ServeHTTP(w, r)
		}
	})
	if err := open(t, host(home)+"/os:v1", oci.Connection{CA: cert, Cert: cert, Key: key}, layer); err != nil {
		t.Error(err)
	}
	if know.Load() == 0 || blobsSaw.Load() == 0 || tokensSaw.Load() == 0 {
		t.Errorf("%d requests to the registry, %d to where it redirects, %d for tokens", know.Load(), blobsSaw.Load(), tokensSaw.Load())
	}
	if blobsKnow.Load() > 0 || tokensKnow.Load() > 0 {
		t.Errorf("the certificate was shown %d times where the registry redirects, %d times to a token service", blobsKnow.Load(), tokensKnow.Load())
	}
}

// tunnel is a proxy that knows CONNECT and nothing else, and wants a password.
func tunnel(t *testing.T, seen *eavesdropper) *httptest.Server {
	seen.answer = func(w http.ResponseWriter, r *http.Request) {
		if r.Method != http.MethodConnect || r.Header.Get("Proxy-Authorization") != "Basic "+base64.StdEncoding.EncodeToString([]byte("box:hush")) {
			w.WriteHeader(http.StatusProxyAuthRequired)
			return
		}
		server, err := net.Dial("tcp", r.Host)
		if err != nil {
			w.WriteHeader(http.StatusBadGateway)
			return
		}
		defer server.Close()
		client, buf, err := http.NewResponseController(w).Hijack()
		if err != nil {
			t.Error(err)
			return
		}
		defer client.Close()
		_, _ = io.WriteString(client, "HTTP/1.1 200 OK\r\n\r\n")
		go func() { _, _ = io.Copy(server, buf) }()
		_, _ = io.Copy(client, server)
	}
	s := httptest.NewServer(seen)
	t.Cleanup(s.Close)
	return s
}

// TestTunnel goes to a registry with TLS through a proxy, which sees nothing of it.
func TestTunnel(t *testing.T) {
	cert, key := ocitest.Certificate(t, time.Now().Add(-time.Hour))
	hash, err := bcrypt.GenerateFromPassword([]byte("secret"), bcrypt.MinCost)
	if err != nil {
		t.Fatal(err)
	}
	f := files(t, cert, key, fmt.Appendf(nil, "device:%s\n", hash))
	addr := dockerRegistry(t, fmt.Sprintf("  tls: {certificate: %s, key: %s}\n", f[0], f[1]), fmt.Sprintf("auth: {htpasswd: {realm: test, path: %s}}\n", f[2]))
	e := &eavesdropper{}
	proxy := tunnel(t, e)
	through := func(user, password string) oci.Connection {
		u, err := url.Parse(proxy.URL)
		if err != nil {
			t.Fatal(err)
		}
		u.User = url.UserPassword(user, password)
		return oci.Connection{CA: cert, Proxy: http.ProxyURL(u), DockerConfig: ocitest.DockerConfig(addr, "device", "secret")}
	}
	layer := random(100)
	pushImage(t, openRemote(t, addr+"/os/test:v1", through("box", "hush")).Repository(), "v1", layer)
	if err := open(t, addr+"/os/test:v1", through("box", "hush"), layer); err != nil {
		t.Error(err)
	}
	if err := open(t, addr+"/os/test:v1", through("box", "wrongpass"), layer); err == nil || strings.Contains(err.Error(), "wrongpass") {
		t.Errorf("with a wrong password for the proxy: %v", err)
	}
	seen, heard := e.report()
	if seen < 2 {
		t.Errorf("%d requests went through the proxy", seen)
	}
	for _, h := range heard {
		if strings.Contains(h, base64.StdEncoding.EncodeToString([]byte("device:secret"))) {
			t.Error("the proxy was shown the registry's password")
		}
	}
}

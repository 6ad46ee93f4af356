package oci_test

import (
	"crypto/tls"
	"crypto/x509"
	"errors"
	"net/http"
	"net/http/httptest"
	"net/http/httputil"
	"net/url"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"cuelabs.dev/go/oci/ociregistry/ocimem"
	"cuelabs.dev/go/oci/ociregistry/ociserver"

	"github.com/sealboot/sealboot/boot/boottest/ocitest"
	"github.com/sealboot/sealboot/boot/source/oci"
)

// open resolves the image at ref and reads its layer.
func open(t *testing.T, ref string, conn oci.Connection, layer []byte) error {
	t.Helper()
	src, err := oci.New(oci.Options{Places: []oci.Place{openRemote(t, ref, conn)}, Rounds: 1})
	if err != nil {
		t.Fatal(err)
	}
	defer src.Close()
	img, err := src.Open(t.Context())
	if err != nil {
		return err
	}
	defer img.Close()
	if err := img.Prefetch(t.Context()); err != nil {
		return err
	}
	checkBlobs(t.Context(), t, img, layer)
	return nil
}

// registryWith returns a registry with one image, /os:v1.
func registryWith(t *testing.T, layer []byte) http.Handler {
	t.Helper()
	h := ociserver.New(ocimem.New(), nil)
	s := httptest.NewServer(h)
	defer s.Close()
	pushImage(t, openRemote(t, host(s)+"/os:v1", oci.Connection{PlainHTTP: true}).Repository(), "v1", layer)
	return h
}

func host(s *httptest.Server) string {
	_, h, _ := strings.Cut(s.URL, "://")
	return h
}

func TestBasicAuth(t *testing.T) {
	layer := random(100)
	s := httptest.NewServer(ocitest.Locked(registryWith(t, layer), "device", "secret"))
	defer s.Close()
	for password, ok := range map[string]bool{"secret": true, "wrong": false} {
		err := open(t, host(s)+"/os:v1", oci.Connection{PlainHTTP: true, DockerConfig: ocitest.DockerConfig(host(s), "device", password)}, layer)
		if (err == nil) != ok {
			t.Errorf("password %s: %v", password, err)
		}
		if err != nil && strings.Contains(err.Error(), password) {
			t.Errorf("the error shows the password: %v", err)
		}
	}
	if err := open(t, host(s)+"/os:v1", oci.Connection{PlainHTTP: true}, layer); err == nil {
		t.Error("opened without credentials")
	}
	if _, err := oci.NewRemote("host/os", oci.Connection{DockerConfig: []byte(`{"auths":"hidden"}`)}); err == nil || strings.Contains(err.Error(), "hidden") {
		t.Errorf("malformed config: %v", err)
	}
}

// TestToken has the token service under the registry's own name.
func TestToken(t *testing.T) {
	layer := random(100)
	reg := registryWith(t, layer)
	var s *httptest.Server
	s = httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		switch {
		case r.URL.Path == "/token":
			if u, p, _ := r.BasicAuth(); u != "device" || p != "secret" || r.URL.Query().Get("scope") != "repository:os:pull" {
				w.WriteHeader(http.StatusUnauthorized)
				return
			}
			_, _ = w.Write([]byte(`{"token":"t0ken"}`))
		case r.Header.Get("Authorization") != "Bearer t0ken":
			w.Header().Set("WWW-Authenticate", `Bearer realm="`+s.URL+`/token",service="test",scope="repository:os:pull"`)
			w.WriteHeader(http.StatusUnauthorized)
		default:
			reg.ServeHTTP(w, r)
		}
	}))
	defer s.Close()
	if err := open(t, host(s)+"/os:v1", oci.Connection{PlainHTTP: true, DockerConfig: ocitest.DockerConfig(host(s), "device", "secret")}, layer); err != nil {
		t.Error(err)
	}
}

// TestTLS has a private CA, a client certificate, and a clock that is not the system's.
func TestTLS(t *testing.T) {
	layer := random(100)
	then := time.Date(2035, 1, 1, 0, 0, 0, 0, time.UTC)
	cert, key := ocitest.Certificate(t, then)
	pair, err := tls.X509KeyPair(cert, key)
	if err != nil {
		t.Fatal(err)
	}
	pool := x509.NewCertPool()
	pool.AppendCertsFromPEM(cert)
	clock := func() time.Time { return then.Add(time.Hour) }
	s := httptest.NewUnstartedServer(registryWith(t, layer))
	s.TLS = &tls.Config{Certificates: []tls.Certificate{pair}, ClientAuth: tls.RequireAndVerifyClientCert, ClientCAs: pool, Time: clock}
	s.Config.ErrorLog = nil
	s.StartTLS()
	defer s.Close()
	good := oci.Connection{CA: cert, Cert: cert, Key: key, Now: clock}
	if err := open(t, host(s)+"/os:v1", good, layer); err != nil {
		t.Error(err)
	}
	for name, change := range map[string]func(*oci.Connection){
		"system clock":          func(c *oci.Connection) { c.Now = nil },
		"no client certificate": func(c *oci.Connection) { c.Cert, c.Key = nil, nil },
		"another CA":            func(c *oci.Connection) { c.CA, _ = ocitest.Certificate(t, then) },
	} {
		conn := good
		change(&conn)
		if err := open(t, host(s)+"/os:v1", conn, layer); err == nil {
			t.Errorf("%s: opened", name)
		}
	}
}

func TestProxy(t *testing.T) {
	layer := random(100)
	s := httptest.NewServer(registryWith(t, layer))
	defer s.Close()
	var seen atomic.Int64
	proxy := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		seen.Add(1)
		(&httputil.ReverseProxy{Rewrite: func(p *httputil.ProxyRequest) {
			p.SetURL(&url.URL{Scheme: "http", Host: host(s)})
		}}).ServeHTTP(w, r)
	}))
	defer proxy.Close()
	u, err := url.Parse(proxy.URL)
	if err != nil {
		t.Fatal(err)
	}
	if err := open(t, "registry.test/os:v1", oci.Connection{PlainHTTP: true, Proxy: http.ProxyURL(u)}, layer); err != nil {
		t.Error(err)
	}
	if seen.Load() == 0 {
		t.Error("nothing went through the proxy")
	}
}

// TestDowngrade: a redirect from https to http is not followed.
func TestDowngrade(t *testing.T) {
	cert, key := ocitest.Certificate(t, time.Now().Add(-time.Hour))
	pair, err := tls.X509KeyPair(cert, key)
	if err != nil {
		t.Fatal(err)
	}
	plain := httptest.NewServer(registryWith(t, random(10)))
	defer plain.Close()
	s := httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		http.Redirect(w, r, plain.URL+r.URL.Path, http.StatusTemporaryRedirect)
	}))
	s.TLS = &tls.Config{Certificates: []tls.Certificate{pair}}
	s.StartTLS()
	defer s.Close()
	if err := open(t, host(s)+"/os:v1", oci.Connection{CA: cert}, nil); err == nil || !strings.Contains(err.Error(), "refusing the redirect") {
		t.Errorf("error is %v", err)
	}
}

// TestMirrors: a place that is dead, and one whose image is not admitted, do
// not hide the third.
func TestMirrors(t *testing.T) {
	good, evil := random(100), random(100)
	a, b := httptest.NewServer(registryWith(t, evil)), httptest.NewServer(registryWith(t, good))
	defer a.Close()
	defer b.Close()
	var places []oci.Place
	var last *oci.Remote
	for _, host := range []string{"127.0.0.1:1", host(a), host(b)} {
		var err error
		if last, err = oci.NewRemote(host+"/os:v1", oci.Connection{PlainHTTP: true}); err != nil {
			t.Fatal(err)
		}
		places = append(places, last)
	}
	want, _, err := last.Manifest(t.Context(), "v1")
	if err != nil {
		t.Fatal(err)
	}
	src, err := oci.New(oci.Options{Places: places, Rounds: 1, Admit: admitOnly(want.Digest)})
	if err != nil {
		t.Fatal(err)
	}
	defer src.Close()
	img, err := src.Open(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	defer img.Close()
	checkBlobs(t.Context(), t, img, good)
	records := img.Provenance()
	if len(records) != 1 || records[0].SHA256 != want.Digest.Encoded() || records[0].Detail["keys"] != "key" {
		t.Errorf("provenance is %+v", records)
	}
	if _, err := records[0].Marshal(); err != nil {
		t.Error(err)
	}
	src, err = oci.New(oci.Options{Places: places, Rounds: 1, Admit: admitOnly("")})
	if err != nil {
		t.Fatal(err)
	}
	defer src.Close()
	if _, err := src.Open(t.Context()); !errors.Is(err, oci.ErrNotAdmitted) {
		t.Errorf("error is %v", err)
	}
}

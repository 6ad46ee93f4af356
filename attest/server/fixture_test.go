package server

import (
	"bytes"
	"context"
	"crypto/tls"
	"io"
	"log/slog"
	"net"
	"net/http"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/sealboot/sealboot/attest/device"
	"github.com/sealboot/sealboot/attest/policy"
	"github.com/sealboot/sealboot/attest/server/site"
	"github.com/sealboot/sealboot/attest/store"
	"github.com/sealboot/sealboot/attest/verify"
	"github.com/sealboot/sealboot/attest/wire"
	"github.com/sealboot/sealboot/measure"
	"github.com/sealboot/sealboot/measure/event"
	"github.com/sealboot/sealboot/measure/tpm/tpmtest"
)

// lab is a site with a running attestd.
type lab struct {
	t      *testing.T
	dir    string
	url    string
	site   *site.Site
	store  *store.Store
	server *Server
	admin  string
	change func(*Server) // before it serves
	ahead  atomic.Int64  // how far attestd's clock is ahead, in nanoseconds
	stop   func()        // ends attestd as SIGTERM does
}

// newLab creates a site and starts attestd for it. The policy is admitAll.
func newLab(t *testing.T) *lab {
	t.Helper()
	return newLabWith(t, func(s *Server) { s.appraisers.parse = admitAll })
}

func newLabWith(t *testing.T, change func(*Server)) *lab {
	t.Helper()
	return newSite(t, site.EndorsedByHash, nil, change)
}

// newSite is newLabWith for a site that trusts the makers of TPMs, whose CAs roots are, or only hashes.
func newSite(t *testing.T, endorsement string, roots []byte, change func(*Server)) *lab {
	t.Helper()
	devices := listen(t, "127.0.0.1:0")
	dir := filepath.Join(t.TempDir(), "site")
	url := "https://" + devices.Addr().String()
	set := site.Settings{Name: "lab", URL: url, Endorsement: endorsement}
	if err := site.Init(dir, set, roots, time.Now); err != nil {
		t.Fatal(err)
	}
	l := &lab{t: t, dir: dir, url: url, change: change}
	l.start(devices)
	return l
}

// newBareLab has no listener: its handlers are called directly, without rate limit.
func newBareLab(t testing.TB) *lab {
	dir := filepath.Join(t.TempDir(), "site")
	set := site.Settings{Name: "lab", URL: "https://127.0.0.1:1", Endorsement: site.EndorsedByHash}
	if err := site.Init(dir, set, nil, time.Now); err != nil {
		t.Fatal(err)
	}
	l := &lab{dir: dir}
	var err error
	if l.site, err = site.Load(dir, time.Now); err != nil {
		t.Fatal(err)
	}
	if l.store, err = l.site.OpenStore(context.Background(), time.Now); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { l.store.Close() })
	if l.server, err = New(Config{Site: l.site, Store: l.store, Rate: 1e9, Burst: 1e9}); err != nil {
		t.Fatal(err)
	}
	return l
}

func testLog(t *testing.T) *slog.Logger { return slog.New(slog.NewTextHandler(testWriter{t}, nil)) }

func listen(t *testing.T, addr string) net.Listener {
	t.Helper()
	ln, err := net.Listen("tcp", addr)
	if err != nil {
		t.Fatal(err)
	}
	return ln
}

func (l *lab) start(devices net.Listener) {
	l.t.Helper()
	var err error
	if l.site, err = site.Load(l.dir, time.Now); err != nil {
		l.t.Fatal(err)
	}
	if l.store, err = l.site.OpenStore(l.t.Context(), time.Now); err != nil {
		l.t.Fatal(err)
	}
	now := func() time.Time { return time.Now().Add(time.Duration(l.ahead.Load())) }
	l.server, err = New(Config{Site: l.site, Store: l.store, Log: testLog(l.t), Now: now})
	if err != nil {
		l.t.Fatal(err)
	}
	l.change(l.server)
	admin := listen(l.t, "127.0.0.1:0")
	l.admin = "http://" + admin.Addr().String()
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- l.server.Serve(ctx, devices, admin) }()
	stopped := false
	l.stop = func() {
		if stopped {
			return
		}
		stopped = true
		cancel()
		if err := <-done; err != nil {
			l.t.Errorf("Serve: %v", err)
		}
		if err := l.store.Close(); err != nil {
			l.t.Error(err)
		}
	}
	l.t.Cleanup(func() { l.stop() })
}

// restart ends attestd and starts another one over the same directory and address.
func (l *lab) restart() {
	l.t.Helper()
	l.stop()
	l.start(listen(l.t, strings.TrimPrefix(l.url, "https://")))
}

type testWriter struct{ t *testing.T }

func (w testWriter) Write(b []byte) (int, error) {
	w.t.Logf("%s", bytes.TrimSpace(b))
	return len(b), nil
}

// appraiseFunc is a policy that is a function.
type appraiseFunc func(*verify.Verified, policy.Device, policy.History) *policy.Appraisal

func (f appraiseFunc) Appraise(v *verify.Verified, d policy.Device, h policy.History) *policy.Appraisal {
	return f(v, d, h)
}

// admitAll is an appraisal policy that agrees to everything but an image whose kernel is "evil".
func admitAll([]store.Document) (appraiser, error) {
	return appraiseFunc(func(v *verify.Verified, _ policy.Device, h policy.History) *policy.Appraisal {
		runs := func(name string, version int64) *policy.Appraisal {
			return &policy.Appraisal{
				Image:  &policy.Image{Header: policy.Header{Name: name}, ImageVersion: uint64(version)},
				Proven: policy.History{ImageVersion: version},
			}
		}
		a := runs("os-2", 2)
		for _, e := range v.Loader {
			switch {
			case e.Record.Name == "kernel" && e.Record.Detail["name"] == "evil":
				a.Reasons = []wire.Reason{{Code: wire.CodeImage, PCR: wire.At(12), Event: "artifact kernel", Detail: "no known image"}}
			case e.Record.Name == "kernel" && e.Record.Detail["name"] == "old":
				a = runs("os-1", 1)
			}
		}
		if a.Proven.ImageVersion < h.HealthyVersion {
			a.Reasons = []wire.Reason{{Code: wire.CodeRollback}}
		}
		return a
	}), nil
}

// machine is a device with a TPM of its own.
type machine struct {
	*device.Client
	tpm      *tpmtest.TPM
	recorder *measure.Recorder
}

func (l *lab) machine(identity int) *machine {
	l.t.Helper()
	m := &machine{tpm: tpmtest.Start(l.t, tpmtest.Options{Identity: identity})}
	m.Client = l.clientFor(m)
	return m
}

// clientFor is a loader on a machine, built for this site.
func (l *lab) clientFor(m *machine) *device.Client {
	return &device.Client{
		TPM: m.tpm.TPM, HTTP: l.client(), URL: l.url, Site: "lab", Loader: "test",
		ServerKey: l.site.ServerPublic(), ReleaseKey: l.site.ReleasePublic(),
	}
}

func (l *lab) client() *http.Client {
	tr := &http.Transport{TLSClientConfig: &tls.Config{RootCAs: l.site.CA.Pool()}}
	l.t.Cleanup(tr.CloseIdleConnections)
	return &http.Client{Transport: tr}
}

// measure extends what a loader would, for an image with this kernel.
func (m *machine) measure(t *testing.T, kernel string) device.Logs {
	t.Helper()
	var err error
	if m.recorder, err = measure.NewRecorder(m.TPM); err != nil {
		t.Fatal(err)
	}
	rec := event.Record{Type: event.TypeArtifact, Name: "kernel", SHA256: strings.Repeat("11", 32), Size: 1, Detail: map[string]string{"name": kernel}}
	if err := m.recorder.Extend(t.Context(), event.PCRImage, rec); err != nil {
		t.Fatal(err)
	}
	return device.Logs{Events: m.recorder.Log()}
}

// cap ends the loader.
func (m *machine) cap(t *testing.T) device.Logs {
	t.Helper()
	if err := m.recorder.Extend(t.Context(), event.PCRImage, event.CapRecord()); err != nil {
		t.Fatal(err)
	}
	return device.Logs{Events: m.recorder.Log()}
}

// enrol registers a machine by the hashes of its endorsement keys.
func (l *lab) enrol(m *machine) string {
	l.t.Helper()
	eks, err := m.EKs(l.t.Context())
	if err != nil {
		l.t.Fatal(err)
	}
	d := store.Device{ID: eks[0], EKs: eks, State: store.Enrolled, Tier: "hash", Label: "box"}
	if err := l.store.Enrol(l.t.Context(), d, store.Event{Kind: "enrol"}); err != nil {
		l.t.Fatal(err)
	}
	return eks[0]
}

// events returns the audit log.
func (l *lab) events() []store.Event {
	l.t.Helper()
	records, err := l.store.Audit(l.t.Context(), l.site.Replica, 0, 1000)
	if err != nil {
		l.t.Fatal(err)
	}
	var out []store.Event
	for _, r := range records {
		_, e, err := r.Event()
		if err != nil {
			l.t.Fatal(err)
		}
		out = append(out, e)
	}
	return out
}

func (l *lab) get(path string) string {
	l.t.Helper()
	resp, err := http.Get(l.admin + path)
	if err != nil {
		l.t.Fatal(err)
	}
	defer resp.Body.Close()
	b, err := io.ReadAll(resp.Body)
	if err != nil || resp.StatusCode != http.StatusOK {
		l.t.Fatalf("GET %s: %s %v\n%s", path, resp.Status, err, b)
	}
	return string(b)
}

// tap is a transport that keeps the last request to each path and can be told to fail.
type tap struct {
	http.RoundTripper
	sent map[string][]byte
}

func (t *tap) RoundTrip(r *http.Request) (*http.Response, error) {
	b, err := io.ReadAll(r.Body)
	if err != nil {
		return nil, err
	}
	t.sent[r.URL.Path] = b
	r.Body = io.NopCloser(bytes.NewReader(b))
	return t.RoundTripper.RoundTrip(r)
}

func (l *lab) tap(m *machine) *tap {
	t := &tap{m.HTTP.Transport, map[string][]byte{}}
	m.HTTP = &http.Client{Transport: t}
	return t
}

// post sends a raw message and returns status and failure code.
func (l *lab) post(client *http.Client, path string, body []byte) (int, wire.Code) {
	resp, err := client.Post(l.url+path, wire.ContentType, bytes.NewReader(body))
	if err != nil {
		l.t.Error(err)
		return 0, ""
	}
	defer resp.Body.Close()
	b, err := io.ReadAll(resp.Body)
	if err != nil {
		l.t.Error(err)
	}
	if resp.StatusCode == http.StatusOK {
		return resp.StatusCode, ""
	}
	var f wire.Failure
	if err := wire.Unmarshal(b, &f); err != nil {
		l.t.Errorf("POST %s: %s: body is not a failure: %q", path, resp.Status, b)
	}
	return resp.StatusCode, f.Code
}

package tuf_test

import (
	"bytes"
	"crypto/rand"
	"crypto/sha256"
	"crypto/sha512"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/sealboot/sealboot/boot/boottest/tuftest"
	"github.com/sealboot/sealboot/boot/source/fetch"
	"github.com/sealboot/sealboot/boot/source/tuf"
	"github.com/sealboot/sealboot/boot/source/tuf/store"
)

// flaky serves data and cuts every connection after some bytes.
type flaky struct {
	data []byte
	cut  int
	lie  func(w http.ResponseWriter, r *http.Request) bool

	mu  sync.Mutex
	log []string
}

// ranges are those of the requests so far.
func (f *flaky) ranges() []string {
	f.mu.Lock()
	defer f.mu.Unlock()
	return slices.Clone(f.log)
}

func (f *flaky) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	f.mu.Lock()
	f.log = append(f.log, r.Header.Get("Range"))
	first := len(f.log) == 1
	f.mu.Unlock()
	if !first && f.lie != nil && f.lie(w, r) {
		return
	}
	http.ServeContent(&cutting{w, f.cut}, r, "", time.Time{}, bytes.NewReader(f.data))
}

type cutting struct {
	http.ResponseWriter
	left int
}

func (c *cutting) Write(p []byte) (int, error) {
	if len(p) > c.left {
		_, _ = c.ResponseWriter.Write(p[:c.left])
		_ = http.NewResponseController(c.ResponseWriter).Flush()
		panic(http.ErrAbortHandler)
	}
	c.left -= len(p)
	return c.ResponseWriter.Write(p)
}

func random(n int) ([]byte, tuf.Want) {
	data := make([]byte, n)
	_, _ = rand.Read(data)
	sum := sha256.Sum256(data)
	return data, tuf.Want{Size: int64(n), SHA256: sum[:]}
}

func streamed(t *testing.T, h http.Handler) tuf.Streamed {
	server := httptest.NewServer(h)
	t.Cleanup(server.Close)
	return tuf.Streamed{URL: server.URL, Create: func() (*os.File, error) { return os.CreateTemp(t.TempDir(), "") }}
}

func TestStreamResumes(t *testing.T) {
	data, wanted := random(1 << 20)
	f := &flaky{data: data, cut: 300_000}
	file, err := streamed(t, f).Target(t.Context(), "x", wanted)
	want(t, err, nil)
	defer file.Close()
	got, err := io.ReadAll(file)
	want(t, err, nil)
	if !bytes.Equal(got, data) {
		t.Fatal("other bytes")
	}
	if r := f.ranges(); len(r) < 3 || r[0] != "" || !strings.HasPrefix(r[1], "bytes=") {
		t.Fatalf("ranges: %q", r)
	}
}

func TestStreamGivesUp(t *testing.T) {
	data, wanted := random(100_000)
	for name, tc := range map[string]struct {
		want string
		lie  func(w http.ResponseWriter, r *http.Request) bool
	}{
		"never a byte more": {"EOF", func(http.ResponseWriter, *http.Request) bool { panic(http.ErrAbortHandler) }},
		"ignores the range": {"HTTP status 200", func(w http.ResponseWriter, _ *http.Request) bool { _, _ = w.Write(data); return true }},
		"another range": {"asked for bytes=", func(w http.ResponseWriter, _ *http.Request) bool {
			w.Header().Set("Content-Range", "bytes 0-99999/100000")
			w.WriteHeader(http.StatusPartialContent)
			return true
		}},
		"gone": {"HTTP status 404", func(w http.ResponseWriter, _ *http.Request) bool { w.WriteHeader(404); return true }},
	} {
		f := &flaky{data: data, cut: 50_000, lie: tc.lie}
		if _, err := streamed(t, f).Target(t.Context(), "x", wanted); err == nil || !strings.Contains(err.Error(), tc.want) {
			t.Errorf("%s: %v, want an error with %q", name, err, tc.want)
		}
		if n := len(f.ranges()); n > 6 {
			t.Errorf("%s: %d requests", name, n)
		}
	}
}

func TestStreamRefusesOtherBytes(t *testing.T) {
	data, wanted := random(10_000)
	changed := bytes.Clone(data)
	changed[5000]++
	for name, tc := range map[string]struct {
		want  string
		serve http.HandlerFunc
	}{
		"changed": {"expected " + fmt.Sprintf("%x", wanted.SHA256), func(w http.ResponseWriter, _ *http.Request) { _, _ = w.Write(changed) }},
		"longer":  {"more than the 10000 bytes", func(w http.ResponseWriter, _ *http.Request) { _, _ = w.Write(append(data, 0)) }},
		"announced": {"announces 10001 bytes", func(w http.ResponseWriter, _ *http.Request) {
			w.Header().Set("Content-Length", "10001")
			_, _ = w.Write(append(data, 0))
		}},
		"shorter": {"9999 bytes, expected 10000", func(w http.ResponseWriter, _ *http.Request) { _, _ = w.Write(data[:9999]) }},
		"endless": {"more than the 10000 bytes", func(w http.ResponseWriter, r *http.Request) {
			for r.Context().Err() == nil {
				if _, err := w.Write(data); err != nil {
					return
				}
			}
		}},
	} {
		_, err := streamed(t, tc.serve).Target(t.Context(), "x", wanted)
		if !errors.Is(err, tuf.ErrMismatch) || !strings.Contains(err.Error(), tc.want) {
			t.Errorf("%s: %v, want %v with %q", name, err, tuf.ErrMismatch, tc.want)
		}
	}
	s := streamed(t, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Content-Length", "10000")
		_, _ = w.Write(data[:10])
		_ = http.NewResponseController(w).Flush()
		<-r.Context().Done()
	}))
	s.Idle = 30 * time.Millisecond
	if _, err := s.Target(t.Context(), "x", wanted); err == nil {
		t.Error("a stalled server succeeded")
	}
}

func TestFetchedFromMirrors(t *testing.T) {
	data, wanted := random(200_000)
	bad := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { _, _ = w.Write(make([]byte, 200_000)) }))
	defer bad.Close()
	paths := make(chan string, 100)
	good := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		paths <- r.URL.Path
		http.ServeContent(w, r, "", time.Time{}, bytes.NewReader(data))
	}))
	defer good.Close()
	f, err := tuf.NewFetched([]string{bad.URL + "/a", good.URL + "/b/"}, nil, fetch.Options{MinBackoff: time.Millisecond, Attempts: 1})
	want(t, err, nil)
	defer f.Close()
	file, err := f.Target(t.Context(), "os/x y", wanted)
	want(t, err, nil)
	defer file.Close()
	want(t, wanted.Check(file), nil)
	if path := <-paths; path != "/b/os/x y" {
		t.Fatalf("asked for %q", path)
	}
	wanted.SHA512 = make([]byte, 64)
	_, err = f.Target(t.Context(), "os/x y", wanted)
	want(t, err, tuf.ErrMismatch)
	long := sha512.Sum512(data)
	only := tuf.Want{Size: wanted.Size, SHA512: long[:]}
	file, err = f.Target(t.Context(), "os/x y", only)
	want(t, err, nil)
	defer file.Close()
	want(t, only.Check(file), nil)
	_, err = f.Target(t.Context(), "os/x y", tuf.Want{Size: wanted.Size, SHA512: make([]byte, 64)})
	want(t, err, tuf.ErrMismatch)
	if _, err = f.Target(t.Context(), "os/x y", tuf.Want{Size: wanted.Size}); err == nil {
		t.Fatal("bytes without a digest")
	}
}

// TestMirrors: the first mirror is stale, broken or hostile; the second is used.
func TestMirrors(t *testing.T) {
	d := newDevice(t)
	d.repo.AddArtifact("targets", "os", []byte("content"))
	d.repo.Publish("targets", "snapshot", "timestamp")
	other := newDevice(t) // another repository altogether
	other.repo.Timestamp.Signed.Version = 100
	other.repo.Publish("timestamp")
	for name, url := range map[string]string{
		"nobody there": "http://127.0.0.1:1/metadata", "another repository": other.repo.URL + "/metadata", "nonsense": "::",
	} {
		d.cfg.Store = &store.Memory{}
		d.cfg.Repositories = []tuf.Repository{tuf.Web{URL: url}, tuf.Web{URL: d.repo.URL + "/metadata"}}
		got, err := d.get("os")
		if err != nil || got != "content" {
			t.Errorf("%s: %q, %v", name, got, err)
		}
	}
}

// TestMirrorHidesNothing: a mirror that is behind, or that fails where it should
// show the next root, neither ends the refresh nor freezes the device.
func TestMirrorHidesNothing(t *testing.T) {
	without := func(status int, names ...string) func(http.ResponseWriter, *http.Request, *tuftest.Repo) bool {
		return func(w http.ResponseWriter, r *http.Request, _ *tuftest.Repo) bool {
			for _, n := range names {
				if strings.HasSuffix(r.URL.Path, n) {
					w.WriteHeader(status)
					return true
				}
			}
			return false
		}
	}
	for name, lie := range map[string]func(http.ResponseWriter, *http.Request, *tuftest.Repo) bool{
		"the next root fails":     without(503, "/2.root.json"),
		"the next root is hidden": without(404, "/2.root.json"),
		"the timestamp is hidden": without(403, "/timestamp.json"),
		"the snapshot is missing": without(404, ".snapshot.json"),
		"the targets fail":        without(500, ".targets.json"),
		"the timestamp is an older one": func(w http.ResponseWriter, r *http.Request, repo *tuftest.Repo) bool {
			if !strings.HasSuffix(r.URL.Path, "/timestamp.json") {
				return false
			}
			_, _ = w.Write(repo.Published["timestamp"][0])
			return true
		},
	} {
		t.Run(name, func(t *testing.T) {
			d := newDevice(t)
			want(t, d.refresh(), nil)
			d.repo.RotateKeys("timestamp")
			d.repo.AddArtifact("targets", "os", []byte("new"))
			d.repo.Publish("root", "targets", "snapshot", "timestamp")
			mirror := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
				if !lie(w, r, d.repo) {
					d.repo.ServeHTTP(w, r)
				}
			}))
			defer mirror.Close()
			honest := tuf.Web{URL: d.repo.URL + "/metadata"}
			d.cfg.Repositories = []tuf.Repository{tuf.Web{URL: mirror.URL + "/metadata"}, honest}
			if got, err := d.get("os"); err != nil || got != "new" {
				t.Errorf("with an honest mirror after it: %q, %v", got, err)
			}
			d.cfg.Store, d.cfg.Repositories = &store.Memory{}, d.cfg.Repositories[:1]
			if d.refresh() == nil {
				t.Error("the mirror alone is enough")
			}
		})
	}
}

// TestForgedCache: what somebody put on the disk is not believed.
func TestForgedCache(t *testing.T) {
	evil := newDevice(t)
	evil.repo.AddArtifact("targets", "os", []byte("evil"))
	evil.repo.Publish("root", "targets", "snapshot", "timestamp")
	want(t, evil.refresh(), nil)
	d := newDevice(t)
	d.repo.AddArtifact("targets", "os", []byte("content"))
	d.repo.Publish("targets", "snapshot", "timestamp")
	d.cfg.Store = evil.cfg.Store
	got, err := d.get("os")
	if err != nil || got != "content" {
		t.Fatalf("%q, %v", got, err)
	}
}

// fullStore is a cache that cannot keep one of its files.
type fullStore struct {
	store.Memory
	name string
}

var errFull = errors.New("no space left on device")

func (s *fullStore) Save(role string, data []byte) error {
	if role == s.name {
		return errFull
	}
	return s.Memory.Save(role, data)
}

func (s *fullStore) SaveRoot(version int64, data []byte) error {
	if s.name == fmt.Sprint(version) {
		return errFull
	}
	return s.Memory.SaveRoot(version, data)
}

// TestFullStore: what could not be stored would not be known at the next boot, so it is no success.
func TestFullStore(t *testing.T) {
	for _, name := range []string{"root", "2", "timestamp", "snapshot", "targets"} {
		for _, again := range []bool{false, true} { // from the first root, and with a second
			d := newDevice(t)
			if again {
				d.repo.Publish("root", "targets", "snapshot", "timestamp")
			} else if name == "2" {
				continue
			}
			d.cfg.Store = &fullStore{name: name}
			if err := d.refresh(); !errors.Is(err, tuf.ErrStore) || !errors.Is(err, errFull) {
				t.Errorf("%s: %v", name, err)
			}
		}
	}
}

// TestEmbeddedRootIsNewer: after a reflash the cache is older than the firmware.
func TestEmbeddedRootIsNewer(t *testing.T) {
	d := newDevice(t)
	d.repo.Publish("root", "root")
	want(t, d.refresh(), nil)
	d.repo.Publish("root", "root")
	d.cfg.TrustedRoot = d.repo.Published["root"][4]
	d.repo.Forget()
	want(t, d.refresh(), nil)
	if q := d.repo.Requests(); q[0].Version != 6 {
		t.Fatalf("asked for %v", q)
	}
	// And the cached chain is followed from the first root, without a request.
	d = newDevice(t)
	d.repo.Publish("root", "root")
	want(t, d.refresh(), nil)
	d.repo.Forget()
	want(t, d.refresh(), nil)
	if q := d.repo.Requests(); len(q) != 2 || q[0].Version != 4 {
		t.Fatalf("a refresh without news asked for %v", q)
	}
}

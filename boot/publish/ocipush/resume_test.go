package ocipush_test

import (
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"

	"cuelabs.dev/go/oci/ociregistry/ocimem"
	"cuelabs.dev/go/oci/ociregistry/ociserver"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	fp "github.com/sealboot/sealboot/boot/boottest/faultproxy"
	"github.com/sealboot/sealboot/boot/boottest/ukitest"
	"github.com/sealboot/sealboot/boot/publish/ocipush"
)

// cutRegistry is a registry behind a proxy that can cut the biggest blob of
// its image in half, once, and that can fail from then on.
type cutRegistry struct {
	addr, name string
	image      ocispec.Descriptor
	size       int64
	big        []byte // the blob's digest, in hex
	sent       atomic.Int64
	cut, gone  atomic.Bool
}

func newCutRegistry(t *testing.T) *cutRegistry {
	t.Helper()
	c := &cutRegistry{name: "/os/test:v1", size: 24 << 20}
	reg := ociserver.New(ocimem.New(), nil)
	proxy := &fp.Proxy{Next: reg, Pick: func(r *http.Request, _ int) fp.Fault {
		big := r.Method == http.MethodGet && len(c.big) > 0 && strings.Contains(r.URL.Path, string(c.big))
		switch {
		case !big:
			return nil
		case c.gone.Load() && c.sent.Load() >= c.size/2:
			return fp.Status(http.StatusNotFound, "")
		}
		return func(w http.ResponseWriter, r *http.Request, next http.Handler) {
			w = &counting{w, &c.sent}
			if left := c.size/2 - c.sent.Load(); c.cut.Load() && left > 0 {
				fp.Cut(left)(w, r, next)
				return
			}
			next.ServeHTTP(w, r)
		}
	}}
	s := httptest.NewServer(proxy)
	t.Cleanup(s.Close)
	c.addr = strings.TrimPrefix(s.URL, "http://")
	initrd := bytes.Repeat([]byte("0123456789abcdef"), int(c.size)/16)
	dst := target(t, c.addr+c.name)
	var err error
	if c.image, err = (ocipush.Artifact{Kernel: write(t, "vmlinuz", []byte(ukitest.BzImage("kernel"))), Initrd: write(t, "initrd", initrd)}).Push(t.Context(), dst); err != nil {
		t.Fatal(err)
	}
	if err := dst.Tag(t.Context(), c.image, "v1"); err != nil {
		t.Fatal(err)
	}
	sum := sha256.Sum256(initrd)
	c.big = []byte(hex.EncodeToString(sum[:]))
	return c
}

type counting struct {
	http.ResponseWriter
	n *atomic.Int64
}

func (c *counting) Write(p []byte) (int, error) {
	n, err := c.ResponseWriter.Write(p)
	c.n.Add(int64(n))
	return n, err
}

func (c *counting) Unwrap() http.ResponseWriter { return c.ResponseWriter }

// TestCopyResumes cuts a copy at half of its biggest blob: the same copy goes
// on there, and so does a later one. No more than the bytes in flight come twice.
func TestCopyResumes(t *testing.T) {
	t.Setenv("XDG_CACHE_HOME", t.TempDir())
	dir := t.TempDir()
	for _, to := range []string{
		"oci:" + filepath.Join(dir, "layout") + ":v1",
		"oci-archive:" + filepath.Join(dir, "os.tar") + ":v1",
		registry(t) + "/os/copy:v1",
	} {
		name, _, _ := strings.Cut(strings.Replace(to, registryHost(to), "registry", 1), ":")
		t.Run(name, func(t *testing.T) {
			c := newCutRegistry(t)
			copyTo := func(to string) error {
				dst := target(t, to)
				_, err := ocipush.Copy(t.Context(), source(t, c.addr+c.name), dst, ocipush.CopyOptions{Warn: func(err error) { t.Log(err) }})
				if err == nil {
					err = dst.Finish()
				}
				return errors.Join(err, dst.Close())
			}
			c.cut.Store(true)
			c.gone.Store(true)
			if err := copyTo(to); err == nil {
				t.Fatal("a copy without its second half")
			}
			first := c.sent.Load()
			c.gone.Store(false)
			if err := copyTo(to); err != nil {
				t.Fatal(err)
			}
			t.Logf("sent %d bytes, then %d of %d", first, c.sent.Load()-first, c.size)
			if more := c.sent.Load() - c.size; first < c.size/2 || more > 256<<10 {
				t.Errorf("%d bytes came twice", more)
			}
			if err := copyTo(to); err != nil && !strings.HasPrefix(to, "oci-archive:") {
				t.Fatal(err)
			}
			if again := c.sent.Load(); !strings.HasPrefix(to, "oci-archive:") && again > c.size+256<<10 {
				t.Errorf("a third copy fetched %d bytes", again-c.size)
			}
			// In one go, with a cut in the middle.
			c.sent.Store(0)
			if err := copyTo(strings.Replace(to, ":v1", "2:v1", 1)); err != nil {
				t.Fatal(err)
			}
			if more := c.sent.Load() - c.size; more > 256<<10 {
				t.Errorf("%d bytes came twice in one copy", more)
			}
			leftovers(t, dir, os.Getenv("XDG_CACHE_HOME"))
		})
	}
}

func registryHost(to string) string {
	host, _, _ := strings.Cut(to, "/")
	if strings.HasPrefix(to, "oci") {
		return "\x00"
	}
	return host
}

// leftovers looks for partials that no one needs any more.
func leftovers(t *testing.T, dirs ...string) {
	t.Helper()
	for _, dir := range dirs {
		err := filepath.WalkDir(dir, func(path string, d os.DirEntry, err error) error {
			if err == nil && (strings.HasSuffix(d.Name(), ".partial") || strings.HasSuffix(d.Name(), ".part") || strings.HasPrefix(d.Name(), ".layout-")) {
				t.Errorf("%s was left", path)
			}
			return err
		})
		if err != nil {
			t.Error(err)
		}
	}
}

// TestCopyTorn: a blob that a power cut left damaged in a layout is copied again.
func TestCopyTorn(t *testing.T) {
	c := newCutRegistry(t)
	dir := filepath.Join(t.TempDir(), "layout")
	to := "oci:" + dir + ":v1"
	if _, err := ocipush.Copy(t.Context(), source(t, c.addr+c.name), target(t, to), ocipush.CopyOptions{}); err != nil {
		t.Fatal(err)
	}
	blobs, err := os.ReadDir(filepath.Join(dir, "blobs", "sha256"))
	if err != nil {
		t.Fatal(err)
	}
	for _, b := range blobs {
		path := filepath.Join(dir, "blobs", "sha256", b.Name())
		if b.Name() == c.image.Digest.Encoded() {
			continue
		}
		if err := os.Chmod(path, 0o600); err != nil {
			t.Fatal(err)
		}
		if err := os.Truncate(path, 1); err != nil {
			t.Fatal(err)
		}
	}
	if _, err := ocipush.Copy(t.Context(), source(t, c.addr+c.name), target(t, to), ocipush.CopyOptions{}); err != nil {
		t.Fatal(err)
	}
	if _, err := ocipush.Copy(t.Context(), source(t, to), target(t, registry(t)+"/x:v1"), ocipush.CopyOptions{}); err != nil {
		t.Error(err)
	}
	f, err := os.Open(filepath.Join(dir, "blobs", "sha256", string(c.big)))
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	h := sha256.New()
	if _, err := io.Copy(h, f); err != nil || hex.EncodeToString(h.Sum(nil)) != string(c.big) {
		t.Errorf("the blob is damaged; %v", err)
	}
}

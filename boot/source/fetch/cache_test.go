package fetch_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"testing"
	"testing/synctest"
	"time"

	"golang.org/x/sys/unix"

	"github.com/opencontainers/go-digest"

	fp "github.com/sealboot/sealboot/boot/boottest/faultproxy"
	"github.com/sealboot/sealboot/boot/source/fetch"
)

// boot is one life of a machine with a cache: it fetches in one of the ways with
// one proxy, and may be switched off after a while.
func boot(t *testing.T, way, dir string, want []byte, limit time.Duration, pick func(*http.Request, int) fp.Fault) (sent int64, err error) {
	t.Helper()
	return bootFor(t, way, dir, blobOf(want), want, limit, pick)
}

// bootFor is boot for a blob under another digest.
func bootFor(t *testing.T, way, dir string, b fetch.Blob, want []byte, limit time.Duration, pick func(*http.Request, int) fp.Fault) (sent int64, err error) {
	t.Helper()
	synctest.Test(t, func(t *testing.T) {
		cache, cerr := fetch.OpenCache(dir)
		if cerr != nil {
			t.Fatal(cerr)
		}
		defer cache.Close()
		p := &fp.Proxy{Next: serve(want), Pick: pick}
		f := setup(t, fetch.Options{Cache: cache, Streams: 1, Warn: func(err error) { t.Log(err) }}, p)
		ctx, cancel := context.WithTimeout(t.Context(), limit)
		defer cancel()
		got, ferr := ways[way](ctx, t, f, b)
		if ferr == nil && !bytes.Equal(got, want) {
			t.Error("success with wrong content")
		}
		synctest.Wait() // until all that was sent is counted
		sent, err = p.Sent(), ferr
	})
	return sent, err
}

// TestCache follows a blob over several boots.
func TestCache(t *testing.T) {
	for way := range ways {
		t.Run(way, func(t *testing.T) { testCache(t, way) })
	}
}

func testCache(t *testing.T, way string) {
	const size = 24 * mib
	want := content(size)
	slow := fp.Always(fp.Throttle(mib, time.Second))
	name := "sha256-" + blobOf(want).Digest.Encoded()
	tests := []struct {
		name   string
		tamper func(t *testing.T, path string) // of the cache's files, without suffix
		most   int64                           // bytes that the second boot may fetch
	}{
		{"untouched", func(*testing.T, string) {}, 5 * mib},
		{"the end was not written", func(t *testing.T, path string) { zero(t, path+".part", 17*mib, 4*mib) }, size - 16*mib},
		{"the end is missing", func(t *testing.T, path string) { truncate(t, path+".part", 17*mib) }, size - 16*mib},
		{"a mark is torn", func(t *testing.T, path string) { truncate(t, path+".marks", 100) }, size - 8*mib},
		{"no marks", func(t *testing.T, path string) { truncate(t, path+".marks", 0) }, size},
		{"the beginning is wrong", func(t *testing.T, path string) { zero(t, path+".part", 0, 100) }, size},
		{"wrong as a whole, with marks that agree", forge, 2 * size},
		{"a pipe where the complete file would be", pipe(""), size},
		{"a pipe in place of the beginning", pipe(".part"), size},
		{"a pipe in place of the marks", pipe(".marks"), size},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			dir := t.TempDir()
			first, err := boot(t, way, dir, want, 21*time.Second, slow)
			if !errors.Is(err, context.DeadlineExceeded) || first < size/3 {
				t.Fatalf("first boot: %d bytes, %v", first, err)
			}
			tt.tamper(t, filepath.Join(dir, name))
			second, err := boot(t, way, dir, want, time.Hour, slow)
			if err != nil || second > tt.most {
				t.Errorf("second boot: %d bytes, want at most %d; %v", second, tt.most, err)
			}
			if third, err := boot(t, way, dir, want, time.Hour, slow); err != nil || third != 0 {
				t.Errorf("third boot: %d bytes, want none; %v", third, err)
			}
			if tt.name != "untouched" {
				return
			}
			zero(t, filepath.Join(dir, name), size/2, 1)
			if fourth, err := boot(t, way, dir, want, time.Hour, slow); err != nil || fourth != size {
				t.Errorf("boot after the complete file was changed: %d bytes; %v", fourth, err)
			}
		})
	}
}

// TestSHA512 resumes a blob that is known by another digest, from the cache's marks.
func TestSHA512(t *testing.T) {
	const size = 24 * mib
	want := content(size)
	long := fetch.Blob{Digest: digest.SHA512.FromBytes(want), Size: size}
	slow := fp.Always(fp.Throttle(mib, time.Second))
	dir := t.TempDir()
	if first, err := bootFor(t, "blob", dir, long, want, 21*time.Second, slow); !errors.Is(err, context.DeadlineExceeded) {
		t.Fatalf("first boot: %d bytes, %v", first, err)
	}
	if second, err := bootFor(t, "blob", dir, long, want, time.Hour, slow); err != nil || second > 5*mib {
		t.Errorf("second boot: %d bytes, %v", second, err)
	}
	zero(t, filepath.Join(dir, "sha512-"+long.Digest.Encoded()), size/2, 1)
	if third, err := bootFor(t, "blob", dir, long, want, time.Hour, slow); err != nil || third != size {
		t.Errorf("boot after the complete file was changed: %d bytes, %v", third, err)
	}
	unknown := fetch.Blob{Digest: digest.SHA384.FromBytes(want), Size: size}
	if _, err := bootFor(t, "blob", dir, unknown, want, time.Hour, slow); !errors.Is(err, fetch.ErrUnsupported) {
		t.Errorf("an unknown digest: %v", err)
	}
}

// TestCacheRename cuts the power when all of a blob was written, before it got
// its name, and right after: nothing is fetched again, and nothing is left.
func TestCacheRename(t *testing.T) {
	want := content(3 * mib)
	name := "sha256-" + blobOf(want).Digest.Encoded()
	mark := fmt.Appendf(nil, "%d %s\n", len(want), blobOf(want).Digest.Encoded())
	for way := range ways {
		for _, renamed := range []bool{false, true} {
			dir := t.TempDir()
			file := filepath.Join(dir, name)
			if !renamed {
				file += ".part"
			}
			if err := errors.Join(os.WriteFile(file, want, 0o600), os.WriteFile(filepath.Join(dir, name+".marks"), mark, 0o600)); err != nil {
				t.Fatal(err)
			}
			if sent, err := boot(t, way, dir, want, time.Hour, nil); err != nil || sent != 0 {
				t.Errorf("%s, renamed %v: %d bytes were fetched, error %v", way, renamed, sent, err)
			}
			if left, err := filepath.Glob(filepath.Join(dir, "*")); err != nil || len(left) != 1 || left[0] != filepath.Join(dir, name) {
				t.Errorf("%s, renamed %v: %q is left, error %v", way, renamed, left, err)
			}
		}
	}
}

// TestCacheSlowLink cuts the power on a link that brings 2 KiB/s: the cache of
// that moment has all but the last minute.
func TestCacheSlowLink(t *testing.T) {
	const rate, on = 2 << 10, 5 * time.Minute
	want := content(3 * mib)
	running, cut := t.TempDir(), t.TempDir()
	gprs := fp.Always(fp.Throttle(rate, time.Second))
	synctest.Test(t, func(t *testing.T) {
		cache, err := fetch.OpenCache(running)
		if err != nil {
			t.Fatal(err)
		}
		defer cache.Close()
		f := setup(t, fetch.Options{Cache: cache}, &fp.Proxy{Next: serve(want), Pick: gprs})
		ctx, cancel := context.WithCancel(t.Context())
		time.AfterFunc(on, func() {
			if err := os.CopyFS(cut, os.DirFS(running)); err != nil {
				t.Error(err)
			}
			cancel()
		})
		if _, err := f.Blob(ctx, blobOf(want)); err == nil {
			t.Error("success")
		}
	})
	most := int64(len(want)) - int64((on-time.Minute-5*time.Second)/time.Second)*rate
	if sent, err := boot(t, "blob", cut, want, time.Hour, gprs); err != nil || sent > most {
		t.Errorf("after the cut: %d bytes, want at most %d; %v", sent, most, err)
	}
}

func zero(t *testing.T, path string, off int64, n int) {
	t.Helper()
	f, err := os.OpenFile(path, os.O_RDWR, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	if _, err := f.WriteAt(make([]byte, n), off); err != nil {
		t.Fatal(err)
	}
}

func truncate(t *testing.T, path string, n int64) {
	t.Helper()
	if err := os.Truncate(path, n); err != nil {
		t.Fatal(err)
	}
}

// pipe puts a named pipe in a file's place, which no one writes or reads.
func pipe(suffix string) func(t *testing.T, path string) {
	return func(t *testing.T, path string) {
		t.Helper()
		if err := os.Remove(path + suffix); err != nil && !errors.Is(err, os.ErrNotExist) {
			t.Fatal(err)
		}
		if err := unix.Mkfifo(path+suffix, 0o600); err != nil {
			t.Fatal(err)
		}
	}
}

// forge changes a partial and gives it marks that fit.
func forge(t *testing.T, path string) {
	t.Helper()
	b := bytes.Repeat([]byte("x"), 8*mib)
	if err := os.WriteFile(path+".part", b, 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(path+".marks", fmt.Appendf(nil, "%d %s\n", len(b), blobOf(b).Digest.Encoded()), 0o600); err != nil {
		t.Fatal(err)
	}
}

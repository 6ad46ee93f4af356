package fetch_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/sealboot/sealboot/boot/base/meminfo"
	fp "github.com/sealboot/sealboot/boot/boottest/faultproxy"
	"github.com/sealboot/sealboot/boot/source/fetch"
)

// TestParallelRanges: on a link that gives each connection little, several
// connections are several times as fast, and nothing is sent twice.
func TestParallelRanges(t *testing.T) {
	const size = 40 * mib
	want := content(size)
	took := func(opt fetch.Options) (d time.Duration) {
		synctest.Test(t, func(t *testing.T) {
			p := &fp.Proxy{Next: serve(want), Pick: fp.Always(fp.Throttle(64<<10, 125*time.Millisecond))} // 512 KiB/s
			f := setup(t, opt, p)
			start := time.Now()
			file, err := f.Blob(t.Context(), blobOf(want))
			if err != nil {
				t.Fatal(err)
			}
			d = time.Since(start)
			if !bytes.Equal(read(t, file), want) {
				t.Error("wrong content")
			}
			synctest.Wait()
			if p.Sent() != size {
				t.Errorf("%d bytes were sent, want %d", p.Sent(), size)
			}
		})
		return d
	}
	one, four := took(fetch.Options{Streams: 1}), took(fetch.Options{Streams: 4})
	cached := took(fetch.Options{Streams: 4, Cache: openCache(t, t.TempDir())})
	t.Logf("1 stream %v, 4 streams %v, and with a cache %v", one, four, cached)
	if max(four, cached)*2 > one {
		t.Errorf("4 streams took %v, with a cache %v, 1 took %v: want less than half", four, cached, one)
	}
}

func openCache(t *testing.T, dir string) *fetch.Cache {
	t.Helper()
	cache, err := fetch.OpenCache(dir)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = cache.Close() })
	return cache
}

// TestStalledRange: one of several connections stalls and the others go on. What
// they bring from behind the gap is not in the cache, so that it has a bound.
func TestStalledRange(t *testing.T) {
	const size, most = 64 * mib, 16 * mib
	want := content(size)
	dir := t.TempDir()
	var sent int64
	synctest.Test(t, func(t *testing.T) {
		slow := fp.Throttle(64<<10, 125*time.Millisecond)
		p := &fp.Proxy{Next: serve(want), Pick: func(_ *http.Request, n int) fp.Fault {
			if n != 2 {
				return slow
			}
			return func(w http.ResponseWriter, r *http.Request, next http.Handler) {
				slow(w, r, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { fp.Stall(700_000)(w, r, next) }))
			}
		}}
		f := setup(t, fetch.Options{Cache: openCache(t, dir), IdleTimeout: time.Hour}, p)
		ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
		defer cancel()
		if _, err := f.Blob(ctx, blobOf(want)); err == nil {
			t.Error("success")
		}
		synctest.Wait()
		sent = p.Sent()
	})
	again, err := boot(t, "blob", dir, want, time.Hour, nil)
	if err != nil {
		t.Fatal(err)
	}
	t.Logf("%d bytes before the cut, %d after it", sent, again)
	if twice := sent + again - size; twice > most {
		t.Errorf("%d bytes were sent twice, want at most %d", twice, most)
	}
}

// TestParallelFaults: of several connections each is cut once.
func TestParallelFaults(t *testing.T) {
	const size = 40 * mib
	want := content(size)
	synctest.Test(t, func(t *testing.T) {
		slow := fp.Throttle(64<<10, 125*time.Millisecond)
		p := &fp.Proxy{Next: serve(want), Pick: func(_ *http.Request, n int) fp.Fault {
			if n == 0 || n%2 == 0 {
				return slow
			}
			return func(w http.ResponseWriter, r *http.Request, next http.Handler) {
				slow(w, r, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { fp.Cut(700_000)(w, r, next) }))
			}
		}}
		f := setup(t, fetch.Options{}, p)
		file, err := f.Blob(t.Context(), blobOf(want))
		if err != nil {
			t.Fatal(err)
		}
		if !bytes.Equal(read(t, file), want) {
			t.Error("wrong content")
		}
		synctest.Wait()
		if p.Sent() != size {
			t.Errorf("%d bytes were sent, want %d", p.Sent(), size)
		}
	})
}

// TestNothingTwice: what was fetched stays when another blob, or the call, fails.
func TestNothingTwice(t *testing.T) {
	want, missing := content(6*mib), blobOf([]byte("missing"))
	synctest.Test(t, func(t *testing.T) {
		p := &fp.Proxy{Next: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			if strings.HasSuffix(r.URL.Path, missing.Digest.Encoded()) {
				http.NotFound(w, r)
				return
			}
			serve(want).ServeHTTP(w, r)
		})}
		f := setup(t, fetch.Options{Blobs: 1}, p)
		for range 3 {
			if err := f.Prefetch(t.Context(), blobOf(want), missing); err == nil {
				t.Fatal("Prefetch succeeded without a blob")
			}
		}
		synctest.Wait()
		sent := p.Sent()
		file, err := f.Blob(t.Context(), blobOf(want))
		if err != nil {
			t.Fatal(err)
		}
		if !bytes.Equal(read(t, file), want) {
			t.Error("wrong content")
		}
		synctest.Wait()
		if p.Sent() != sent {
			t.Errorf("%d bytes were fetched again", p.Sent()-sent)
		}
	})
}

// TestDeadline ends a call in the middle; the next goes on there.
func TestDeadline(t *testing.T) {
	const size = 4 * mib
	want := content(size)
	synctest.Test(t, func(t *testing.T) {
		p := &fp.Proxy{Next: serve(want), Pick: fp.First(fp.Throttle(64<<10, time.Second))}
		f := setup(t, fetch.Options{}, p)
		ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
		defer cancel()
		if _, err := f.Blob(ctx, blobOf(want)); !errors.Is(err, context.DeadlineExceeded) {
			t.Fatalf("error is %v", err)
		}
		synctest.Wait()
		part := p.Sent()
		file, err := f.Blob(t.Context(), blobOf(want))
		if err != nil {
			t.Fatal(err)
		}
		if !bytes.Equal(read(t, file), want) {
			t.Error("wrong content")
		}
		if part < size/3 || p.Sent() > size+(128<<10) {
			t.Errorf("%d bytes were sent before the deadline, %d in all, want %d", part, p.Sent(), size)
		}
	})
}

func TestRoom(t *testing.T) {
	want := content(1000)
	p := &fp.Proxy{Next: serve(want)}
	f, err := fetch.New(fetch.Options{
		Mirrors: []fetch.Mirror{fetch.HTTP{Name: "a", Client: http.DefaultClient, URL: func(fetch.Blob) string { return "http://a/" }}},
		Room:    func() (int64, error) { return 1500, nil },
	})
	if err != nil {
		t.Fatal(err)
	}
	other := blobOf(want[1:])
	var room *meminfo.ShortError
	if err := f.Prefetch(t.Context(), blobOf(want), other); !errors.As(err, &room) || room.Need != 1999 || room.Available != 1500 {
		t.Errorf("error is %v", err)
	}
	if p.Requests() != 0 {
		t.Error("something was fetched")
	}
}

func TestProgress(t *testing.T) {
	want := content(10 * mib)
	synctest.Test(t, func(t *testing.T) {
		var last atomic.Value
		p := &fp.Proxy{Next: serve(want), Pick: fp.Always(fp.Throttle(mib, time.Second))}
		f := setup(t, fetch.Options{Streams: 1, Progress: func(p fetch.Progress) { last.Store(p) }}, p)
		if err := f.Prefetch(t.Context(), blobOf(want)); err != nil {
			t.Fatal(err)
		}
		got, _ := last.Load().(fetch.Progress)
		if got.Done != 10*mib || got.Total != 10*mib || got.Rate < 0.5*mib || got.Rate > 2*mib || got.Left() != 0 {
			t.Errorf("last progress is %+v", got)
		}
	})
}

// TestProgressOfMany has several blobs at once, one of them on disk already, one
// dropped half way because it was wrong, and one that is fetched twice.
func TestProgressOfMany(t *testing.T) {
	all := content(24 * mib)
	contents := map[string][]byte{}
	var blobs []fetch.Blob
	for i := range 6 {
		b := all[i*4*mib+i : (i+1)*4*mib]
		blobs, contents["/"+blobOf(b).Digest.Encoded()] = append(blobs, blobOf(b)), b
	}
	dir := t.TempDir()
	name := filepath.Join(dir, "sha256-"+blobs[0].Digest.Encoded())
	if err := os.WriteFile(name, contents["/"+blobs[0].Digest.Encoded()], 0o600); err != nil {
		t.Fatal(err)
	}
	synctest.Test(t, func(t *testing.T) {
		cache, err := fetch.OpenCache(dir)
		if err != nil {
			t.Fatal(err)
		}
		defer cache.Close()
		var mu sync.Mutex
		var last fetch.Progress
		note := func(p fetch.Progress) {
			mu.Lock()
			defer mu.Unlock()
			if last = p; p.Done < 0 || p.Done > p.Total || p.Left() < 0 {
				t.Errorf("progress is %+v, left %v", p, p.Left())
			}
		}
		slow := fp.Throttle(mib, time.Second)
		wrong := "/" + blobs[2].Digest.Encoded()
		bad := &fp.Proxy{Next: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			serve(contents[r.URL.Path]).ServeHTTP(w, r)
		}), Pick: func(r *http.Request, _ int) fp.Fault {
			if r.URL.Path == wrong {
				return both(slow, fp.Corrupt(mib))
			}
			return slow
		}}
		good := &fp.Proxy{Next: bad.Next, Pick: fp.Always(slow)}
		f := setup(t, fetch.Options{Cache: cache, Progress: note}, bad, good)
		if err := f.Prefetch(t.Context(), blobs...); err != nil {
			t.Fatal(err)
		}
		want := int64(24*mib - 15)
		if last.Done != want || last.Total != want {
			t.Errorf("after all: %+v, want %d bytes", last, want)
		}
		for range 2 { // handed out, and fetched again
			file, err := f.Blob(t.Context(), blobs[5])
			if err != nil {
				t.Fatal(err)
			}
			_ = file.Close()
		}
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		cache.Forget(blobs[5])
		for _, ctx := range []context.Context{ctx, t.Context()} {
			_ = f.Stream(ctx, blobs[5], func(r io.Reader) error { _, err := io.Copy(io.Discard, r); return err })
		}
		if last.Done != want || last.Total != want {
			t.Errorf("in the end: %+v, want %d bytes", last, want)
		}
	})
}

func TestEmptyBlob(t *testing.T) {
	p := &fp.Proxy{Next: serve(nil)}
	f := setup(t, fetch.Options{}, p)
	file, err := f.Blob(t.Context(), blobOf(nil))
	if err != nil {
		t.Fatal(err)
	}
	if got := read(t, file); len(got) != 0 || p.Requests() != 0 {
		t.Errorf("%d bytes, %d requests", len(got), p.Requests())
	}
}

// TestFile: the file is read-only, and outlives the fetcher.
func TestFile(t *testing.T) {
	want := content(100_000)
	net := &fp.Network{}
	defer net.Close()
	net.Handle("a", serve(want))
	f, err := fetch.New(fetch.Options{Mirrors: []fetch.Mirror{fetch.HTTP{
		Name: "a", Client: net.Client(), URL: func(fetch.Blob) string { return "http://a/" },
	}}})
	if err != nil {
		t.Fatal(err)
	}
	file, err := f.Blob(t.Context(), blobOf(want))
	if err != nil {
		t.Fatal(err)
	}
	if err := f.Close(); err != nil {
		t.Fatal(err)
	}
	if _, err := file.WriteAt([]byte("x"), 0); err == nil {
		t.Error("the file can be written to")
	}
	// As kexec does to append to an initrd.
	again, err := os.OpenFile(fmt.Sprintf("/proc/self/fd/%d", file.Fd()), os.O_RDWR, 0)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := again.WriteAt([]byte("more"), int64(len(want))); err != nil {
		t.Error(err)
	}
	_ = again.Close()
	if got := read(t, file); !bytes.Equal(got, append(want, "more"...)) {
		t.Error("wrong content")
	}
	if _, err := f.Blob(t.Context(), blobOf(want)); !errors.Is(err, os.ErrClosed) {
		t.Errorf("Blob after Close: %v", err)
	}
}

package fetch_test

import (
	"bytes"
	"cmp"
	"context"
	"errors"
	"io"
	"math/rand/v2"
	"net/http"
	"os"
	"slices"
	"testing"
	"testing/synctest"
	"time"

	"github.com/opencontainers/go-digest"

	fp "github.com/sealboot/sealboot/boot/boottest/faultproxy"
	"github.com/sealboot/sealboot/boot/source/fetch"
)

const mib = 1 << 20

// content is n bytes that look random and are the same in each run.
func content(n int) []byte {
	b := make([]byte, n)
	r := rand.NewChaCha8([32]byte{1})
	_, _ = r.Read(b)
	return b
}

func blobOf(b []byte) fetch.Blob {
	return fetch.Blob{Digest: digest.FromBytes(b), Size: int64(len(b))}
}

func serve(b []byte) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		http.ServeContent(w, r, "", time.Time{}, bytes.NewReader(b))
	})
}

// setup builds a fetcher of one mirror for each proxy, named a, b, c.
func setup(t *testing.T, opt fetch.Options, proxies ...*fp.Proxy) *fetch.Fetcher {
	t.Helper()
	net := &fp.Network{}
	client := net.Client()
	for i, p := range proxies {
		host := string(rune('a' + i))
		net.Handle(host, p)
		opt.Mirrors = append(opt.Mirrors, fetch.HTTP{
			Name: host, Client: client,
			URL: func(b fetch.Blob) string { return "http://" + host + "/" + b.Digest.Encoded() },
		})
	}
	opt.Room = func() (int64, error) { return 1 << 40, nil }
	f, err := fetch.New(opt)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := f.Close(); err != nil {
			t.Errorf("Close: %v", err)
		}
		client.CloseIdleConnections()
		net.Close()
	})
	return f
}

func read(t *testing.T, f *os.File) []byte {
	t.Helper()
	defer f.Close()
	b, err := io.ReadAll(f)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

// ways are the two in which a blob can be had.
var ways = map[string]func(context.Context, *testing.T, *fetch.Fetcher, fetch.Blob) ([]byte, error){
	"blob": func(ctx context.Context, t *testing.T, f *fetch.Fetcher, b fetch.Blob) ([]byte, error) {
		file, err := f.Blob(ctx, b)
		if err != nil {
			return nil, err
		}
		return read(t, file), nil
	},
	"stream": func(ctx context.Context, t *testing.T, f *fetch.Fetcher, b fetch.Blob) (got []byte, err error) {
		var read error
		err = f.Stream(ctx, b, func(r io.Reader) error {
			got, read = io.ReadAll(r)
			return read
		})
		if err == nil != (read == nil) {
			t.Errorf("Stream: %v; the reader's end: %v", err, read)
		}
		return got, err
	},
}

// few bytes are what servers have sent that were not read: their answers were refused.
const few = 64 << 10

// busyUntil answers 503 with a date in Retry-After.
func busyUntil(d time.Duration) fp.Fault {
	return func(w http.ResponseWriter, r *http.Request, next http.Handler) {
		now := time.Now().UTC()
		w.Header().Set("Date", now.Format(http.TimeFormat))
		fp.Status(503, now.Add(d).Format(http.TimeFormat))(w, r, next)
	}
}

// TestFaults has one server misbehave in one way, for ever or a few times.
func TestFaults(t *testing.T) {
	const size = 10 * mib
	want := content(size)
	other := content(size + 1)[1:]
	tests := []struct {
		name   string
		pick   func(*http.Request, int) fp.Fault
		err    error // nil: the blob arrives
		resent int64 // most that may be sent beyond the blob
		sent   int64 // most that may be sent in all; 0 means the blob and resent

		least, most time.Duration // that it takes; 0 means any time
	}{
		{name: "none"},
		{name: "cut at 10%", pick: fp.First(fp.Cut(size / 10))},
		{name: "cut at 50%", pick: fp.First(nil, fp.Cut(size/2-4*mib))},
		{name: "cut at 90%", pick: fp.First(nil, fp.Cut(size/10*9-4*mib))},
		{name: "cut at 10, 50 and 90%", pick: fp.First(fp.Cut(size/10), fp.Cut(size/10*4-1), fp.Cut(1), nil, fp.Cut(size/10))},
		{name: "cut often", pick: func(_ *http.Request, n int) fp.Fault { return fp.Cut(300_000) }, resent: 0},
		{name: "cut before the first byte, for ever", pick: fp.Always(fp.Cut(0)), err: io.ErrUnexpectedEOF},
		{name: "stall once", pick: fp.First(fp.Stall(mib)), most: 61 * time.Second},
		{name: "stall for ever", pick: fp.Always(fp.Stall(0)), err: fetch.ErrStalled, sent: 1, most: 4 * time.Minute},
		{name: "stall for ever after a part", pick: after(1, nil, fp.Stall(100)), err: fetch.ErrStalled, sent: 4*mib + 600, most: 4 * time.Minute},
		{name: "a byte a second", pick: fp.Always(fp.Throttle(1, time.Second)), err: fetch.ErrStalled, sent: 200, most: 4 * time.Minute},
		{name: "a byte a second after a part", pick: after(1, nil, fp.Throttle(1, time.Second)), err: fetch.ErrStalled, sent: 4*mib + 200, most: 4 * time.Minute},
		{name: "truncated once", pick: fp.First(fp.Truncate(mib))},
		{name: "truncated after a part", pick: fp.First(nil, fp.Truncate(mib))},
		{name: "truncated for ever", pick: fp.Always(fp.Truncate(0)), err: io.ErrUnexpectedEOF},
		{name: "short Content-Length", pick: fp.Always(fp.ContentLength(100)), err: fetch.ErrProtocol, sent: few},
		{name: "long Content-Length", pick: fp.Always(fp.ContentLength(2 * size)), err: fetch.ErrProtocol, sent: few},
		{name: "long Content-Length once, after a part", pick: fp.First(nil, fp.ContentLength(2*size)), resent: few},
		{name: "Content-Range of another part", pick: fp.Always(fp.ContentRange("bytes 1-4194304/10485760")), err: fetch.ErrProtocol, sent: few},
		{name: "Content-Range of another size", pick: fp.Always(fp.ContentRange("bytes 0-4194303/10485761")), err: fetch.ErrProtocol, sent: few},
		{name: "Content-Range without a size", pick: fp.Always(fp.ContentRange("bytes 0-4194303/*")), err: fetch.ErrProtocol, sent: few},
		{name: "Content-Range of another part once, after a part", pick: fp.First(nil, fp.ContentRange("bytes 0-6291455/10485760")), resent: few},
		{name: "no ranges", pick: fp.Always(fp.IgnoreRange)},
		{name: "no ranges after a cut", pick: fp.First(fp.Cut(mib), fp.IgnoreRange), resent: mib},
		{name: "no ranges and cuts for ever", pick: func(*http.Request, int) fp.Fault {
			return func(w http.ResponseWriter, r *http.Request, next http.Handler) {
				r.Header.Del("Range")
				fp.Cut(mib)(w, r, next)
			}
		}, err: fetch.ErrNoRange, sent: 4*mib + few},
		{name: "416 for ever", pick: fp.Always(fp.Status(416, "")), err: fetch.ErrNoRange},
		{name: "416 after a part", pick: fp.First(nil, fp.Status(416, "")), resent: 4 * mib},
		{name: "429 and 503 with Retry-After", pick: fp.First(fp.Status(429, "7"), fp.Status(503, "11")), least: 18 * time.Second, most: 19 * time.Second},
		{name: "503 until a date, after a part", pick: fp.First(nil, busyUntil(40*time.Second)), least: 40 * time.Second, most: 41 * time.Second},
		{name: "503 for a day", pick: fp.First(fp.Status(503, "86400")), least: time.Minute, most: 61 * time.Second},
		{name: "503 until another year", pick: fp.First(busyUntil(1e4 * time.Hour)), least: time.Minute, most: 61 * time.Second},
		{name: "429 for ever", pick: fp.Always(fp.Status(429, "7")), err: &fetch.StatusError{}, sent: 1, least: 35 * time.Second, most: time.Minute},
		{name: "404", pick: fp.Always(fp.Status(404, "")), err: &fetch.StatusError{}, sent: 1},
		{name: "500 twice", pick: fp.First(fp.Status(500, ""), nil, fp.Status(500, ""))},
		{name: "redirect loop", pick: fp.Always(fp.RedirectLoop), err: errors.New("stopped after 10 redirects"), sent: few},
		{name: "redirect loop once, after a part", pick: fp.First(append([]fp.Fault{nil}, slices.Repeat([]fp.Fault{fp.RedirectLoop}, 10)...)...), resent: few},
		{name: "endless", pick: fp.Always(fp.Endless), err: fetch.ErrDigest, resent: few},
		{name: "endless after a part", pick: after(1, nil, fp.Endless), err: fetch.ErrDigest, resent: 4*mib + few},
		{name: "changed", pick: fp.Always(fp.Corrupt(0)), err: fetch.ErrDigest},
		{name: "changed half way", pick: after(1, nil, fp.Corrupt(mib)), err: fetch.ErrDigest},
		{name: "another blob of that size", pick: fp.Always(func(w http.ResponseWriter, r *http.Request, _ http.Handler) {
			serve(other).ServeHTTP(w, r)
		}), err: fetch.ErrDigest},
		{name: "compressed", pick: fp.Always(fp.Header(func(code int, h http.Header) int {
			h.Set("Content-Encoding", "gzip")
			return code
		})), err: fetch.ErrProtocol, sent: few},
	}
	for _, tt := range tests {
		for way, get := range ways {
			t.Run(tt.name+"/"+way, func(t *testing.T) {
				synctest.Test(t, func(t *testing.T) {
					p := &fp.Proxy{Next: serve(want), Pick: tt.pick}
					f := setup(t, fetch.Options{}, p)
					ctx, cancel := context.WithTimeout(t.Context(), 24*time.Hour)
					defer cancel()
					start := time.Now()
					got, err := get(ctx, t, f, blobOf(want))
					t.Logf("%d requests, %d bytes, %v", p.Requests(), p.Sent(), time.Since(start))
					checkError(t, err, tt.err)
					if err == nil && !bytes.Equal(got, want) {
						t.Error("success with wrong content")
					}
					if most := cmp.Or(tt.sent, size+tt.resent); p.Sent() > most {
						t.Errorf("%d bytes were sent, want at most %d", p.Sent(), most)
					}
					if took := time.Since(start); took < tt.least || tt.most > 0 && took > tt.most {
						t.Errorf("it took %v, want %v to %v", took, tt.least, tt.most)
					}
				})
			})
		}
	}
}

func checkError(t *testing.T, got, want error) {
	t.Helper()
	var status *fetch.StatusError
	var wantStatus *fetch.StatusError
	switch {
	case want == nil && got == nil, want != nil && errors.Is(got, want):
	case errors.As(want, &wantStatus) && errors.As(got, &status):
	case want != nil && got != nil && bytes.Contains([]byte(got.Error()), []byte(want.Error())):
	default:
		t.Errorf("error is %v, want %v", got, want)
	}
}

// TestMirrors has several servers, the first of them bad.
func TestMirrors(t *testing.T) {
	const size = 10 * mib
	want := content(size)
	bad := map[string]func(*http.Request, int) fp.Fault{
		"dead":       fp.Always(fp.Status(404, "")),
		"busy":       fp.Always(fp.Status(503, "100")),
		"silent":     fp.Always(fp.Stall(0)),
		"malformed":  fp.Always(fp.ContentRange("bytes ?")),
		"wrong":      fp.Always(fp.Corrupt(0)),
		"half wrong": fp.First(nil, fp.Corrupt(mib), fp.Corrupt(0), fp.Corrupt(0)),
		"mixed": fp.First(fp.Corrupt(0), fp.Cut(mib), fp.Status(503, "30"), // then the good one sends the rest
			fp.Corrupt(0), fp.Corrupt(0), fp.Corrupt(0)),
		"loop": fp.Always(fp.RedirectLoop),
	}
	for name, pick := range bad {
		for way, get := range ways {
			t.Run(name+"/"+way, func(t *testing.T) {
				synctest.Test(t, func(t *testing.T) {
					first := &fp.Proxy{Next: serve(want), Pick: pick}
					second := &fp.Proxy{Next: serve(want)}
					f := setup(t, fetch.Options{}, first, second)
					got, err := get(t.Context(), t, f, blobOf(want))
					if err != nil {
						t.Fatal(err)
					}
					if !bytes.Equal(got, want) {
						t.Error("success with wrong content")
					}
					t.Logf("first sent %d, second %d", first.Sent(), second.Sent())
					// Bytes whose sender is not known can not be verified nor blamed.
					if most := int64(map[bool]int{false: size, true: 2 * size}[name == "mixed"]); second.Sent() > most {
						t.Errorf("the good mirror sent %d bytes of %d", second.Sent(), size)
					}
				})
			})
		}
	}
}

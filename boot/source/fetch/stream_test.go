package fetch_test

import (
	"bytes"
	"crypto/sha256"
	"errors"
	"io"
	"net/http"
	"os"
	"testing"
	"testing/synctest"
	"time"

	"github.com/opencontainers/go-digest"

	fp "github.com/sealboot/sealboot/boot/boottest/faultproxy"
	"github.com/sealboot/sealboot/boot/source/fetch"
)

// pattern is n bytes that are made when they are read.
type pattern struct{ n, pos int64 }

func (p *pattern) Seek(off int64, whence int) (int64, error) {
	switch whence {
	case io.SeekStart:
		p.pos = off
	case io.SeekEnd:
		p.pos = p.n + off
	}
	return p.pos, nil
}

func (p *pattern) Read(b []byte) (int, error) {
	n := int(min(int64(len(b)), p.n-p.pos))
	if n == 0 {
		return 0, io.EOF
	}
	for i := range b[:n] {
		b[i] = byte(p.pos>>12) ^ byte(p.pos)
		p.pos++
	}
	return n, nil
}

// TestStreamMemory has a taker that is slower than the link: the server must
// not get ahead of it by more than the window.
func TestStreamMemory(t *testing.T) {
	const size, ahead = 192 * mib, 48 * mib // the window, and what pipes and buffers hold
	h := sha256.New()
	if _, err := io.Copy(h, &pattern{n: size}); err != nil {
		t.Fatal(err)
	}
	b := fetch.Blob{Digest: digest.NewDigest(digest.SHA256, h), Size: size}
	next := http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		http.ServeContent(w, r, "", time.Time{}, &pattern{n: size})
	})
	for name, pick := range map[string]func(*http.Request, int) fp.Fault{
		"ranges": nil, "whole blobs only": fp.Always(fp.IgnoreRange),
		"slow ranges": fp.Always(fp.Throttle(128<<10, 50*time.Millisecond)),
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				p := &fp.Proxy{Next: next, Pick: pick}
				f := setup(t, fetch.Options{}, p)
				var most, taken int64
				err := f.Stream(t.Context(), b, func(r io.Reader) error {
					for {
						n, err := io.CopyN(io.Discard, r, mib)
						taken += n
						most = max(most, p.Sent()-taken)
						if err == io.EOF {
							return nil
						}
						if err != nil {
							return err
						}
						if taken < 96*mib {
							time.Sleep(35 * time.Second) // longer than a server may be silent
						}
					}
				})
				synctest.Wait()
				if err != nil || taken != size || p.Sent() != size {
					t.Fatalf("%d bytes taken, %d sent, of %d: %v", taken, p.Sent(), size, err)
				}
				t.Logf("%d requests, at most %d MiB ahead", p.Requests(), most/mib)
				if most > ahead {
					t.Errorf("%d bytes were in memory", most)
				}
			})
		})
	}
}

// TestStreamTaker has takers that fail, stop early, or panic.
func TestStreamTaker(t *testing.T) {
	want, broken := content(6*mib), errors.New("disk broken")
	synctest.Test(t, func(t *testing.T) {
		bad := &fp.Proxy{Next: serve(want), Pick: fp.Always(fp.Corrupt(0))}
		good := &fp.Proxy{Next: serve(want)}
		f := setup(t, fetch.Options{}, bad, good)
		calls := 0
		err := f.Stream(t.Context(), blobOf(want), func(r io.Reader) error {
			calls++
			b := make([]byte, mib)
			if _, err := io.ReadFull(r, b); err != nil {
				return err
			}
			if !bytes.Equal(b, want[:mib]) {
				return errors.New("garbage") // as a decompressor would say
			}
			return nil // what follows is of no interest, and is verified all the same
		})
		if err != nil || calls != 2 {
			t.Errorf("%d calls with a bad mirror: %v", calls, err)
		}
		if err := f.Stream(t.Context(), blobOf(want), func(io.Reader) error { return broken }); !errors.Is(err, broken) {
			t.Errorf("error is %v, want the taker's", err)
		}
		func() {
			defer func() {
				if recover() == nil {
					t.Error("the panic was lost")
				}
			}()
			_ = f.Stream(t.Context(), blobOf(want), func(io.Reader) error { panic("parser") })
		}()
		got, err := ways["stream"](t.Context(), t, f, blobOf(want))
		if err != nil || !bytes.Equal(got, want) {
			t.Errorf("after a panic: %v", err)
		}
	})
}

// TestStreamFetched streams what a Prefetch has brought.
func TestStreamFetched(t *testing.T) {
	want := content(mib)
	synctest.Test(t, func(t *testing.T) {
		p := &fp.Proxy{Next: serve(want)}
		f := setup(t, fetch.Options{}, p)
		if err := f.Prefetch(t.Context(), blobOf(want)); err != nil {
			t.Fatal(err)
		}
		got, err := ways["stream"](t.Context(), t, f, blobOf(want))
		synctest.Wait()
		if err != nil || !bytes.Equal(got, want) || p.Sent() != mib {
			t.Errorf("%d bytes sent: %v", p.Sent(), err)
		}
		if err := f.Close(); err != nil {
			t.Error(err)
		}
		if err := f.Stream(t.Context(), blobOf(want), nil); !errors.Is(err, os.ErrClosed) {
			t.Errorf("Stream after Close: %v", err)
		}
	})
}

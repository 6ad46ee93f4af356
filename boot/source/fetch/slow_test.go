package fetch_test

import (
	"bytes"
	"net/http"
	"testing"
	"testing/synctest"
	"time"

	fp "github.com/sealboot/sealboot/boot/boottest/faultproxy"
	"github.com/sealboot/sealboot/boot/source/fetch"
)

// drip brings a little more than the limit below which a request is given up.
var drip = fp.Throttle(150, time.Second)

// both applies one fault to what another has done.
func both(outer, inner fp.Fault) fp.Fault {
	return func(w http.ResponseWriter, r *http.Request, next http.Handler) {
		outer(w, r, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { inner(w, r, next) }))
	}
}

// after is a mirror that changes after n requests.
func after(n int, before, then fp.Fault) func(*http.Request, int) fp.Fault {
	return func(_ *http.Request, i int) fp.Fault {
		if i < n {
			return before
		}
		return then
	}
}

// TestSlowMirror: mirrors that are slow, but not so slow that they are given up, leave the
// blob to one that is faster, and otherwise bring it to the end. Nothing is sent twice.
func TestSlowMirror(t *testing.T) {
	const size = 3 * mib
	want := content(size)
	gprs := fp.Throttle(2<<10, time.Second)
	tests := []struct {
		name     string
		mirrors  []func(*http.Request, int) fp.Fault
		within   time.Duration
		requests int   // at most
		resent   int64 // at most
	}{
		{"one link of 2 KiB/s, one mirror",
			[]func(*http.Request, int) fp.Fault{fp.Always(gprs)}, 26 * time.Minute, 1, 0},
		{"one mirror that drips",
			[]func(*http.Request, int) fp.Fault{fp.Always(drip)}, 6 * time.Hour, 1, 0},
		{"one link of 2 KiB/s, three mirrors",
			[]func(*http.Request, int) fp.Fault{fp.Always(gprs), fp.Always(gprs), fp.Always(gprs)}, 27 * time.Minute, 12, 24 << 10},
		{"the first drips",
			[]func(*http.Request, int) fp.Fault{fp.Always(drip), nil}, 31 * time.Second, 2, 4 << 10},
		{"two drip",
			[]func(*http.Request, int) fp.Fault{fp.Always(drip), fp.Always(drip), nil}, 62 * time.Second, 3, 8 << 10},
		{"the first drips, the second is on a link of 2 KiB/s",
			[]func(*http.Request, int) fp.Fault{fp.Always(drip), fp.Always(gprs)}, 29 * time.Minute, 8, 16 << 10},
		{"the first drips and the second fails for a while",
			[]func(*http.Request, int) fp.Fault{fp.Always(drip), after(3, fp.Status(503, "20"), nil)}, 3 * time.Minute, 12, 8 << 10},
		{"the second drips once it has been taken for the better one",
			[]func(*http.Request, int) fp.Fault{after(2, drip, nil), after(1, fp.Cut(mib), drip)}, 12 * time.Minute, 5, 8 << 10},
		{"the first drips, and sends whole blobs only",
			[]func(*http.Request, int) fp.Fault{fp.Always(both(drip, fp.IgnoreRange)), nil}, 31 * time.Second, 2, 4 << 10},
		{"the first drips, the second sends whole blobs only",
			[]func(*http.Request, int) fp.Fault{fp.Always(drip), fp.Always(fp.IgnoreRange)}, 31 * time.Second, 2, 16 << 10},
		{"one link of 2 KiB/s, two mirrors that send whole blobs only",
			[]func(*http.Request, int) fp.Fault{fp.Always(both(gprs, fp.IgnoreRange)), fp.Always(both(gprs, fp.IgnoreRange))}, 40 * time.Minute, 3, 1400 << 10},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				var proxies []*fp.Proxy
				for _, pick := range tt.mirrors {
					proxies = append(proxies, &fp.Proxy{Next: serve(want), Pick: pick})
				}
				f := setup(t, fetch.Options{Warn: func(err error) { t.Log(err) }}, proxies...)
				start := time.Now()
				file, err := f.Blob(t.Context(), blobOf(want))
				took := time.Since(start)
				if err != nil {
					t.Fatalf("after %v: %v", took, err)
				}
				if !bytes.Equal(read(t, file), want) {
					t.Error("wrong content")
				}
				requests, sent := 0, int64(0)
				for i, p := range proxies {
					t.Logf("mirror %d: %d requests, %d bytes", i, p.Requests(), p.Sent())
					requests, sent = requests+p.Requests(), sent+p.Sent()
				}
				t.Logf("%v, %d requests, %d bytes twice", took, requests, sent-size)
				if took > tt.within || requests > tt.requests || sent-size > tt.resent {
					t.Errorf("it took %v, %d requests and %d bytes more; want at most %v, %d and %d",
						took, requests, sent-size, tt.within, tt.requests, tt.resent)
				}
			})
		})
	}
}

// TestSlowAlone has a mirror that sends something wrong and then drips, while
// it has to send the whole blob by itself.
func TestSlowAlone(t *testing.T) {
	const size = 3 * mib
	want := content(size)
	wrong := fp.First(both(fp.Corrupt(0), fp.Cut(mib)), drip)
	wrongThenDrips := func(r *http.Request, n int) fp.Fault {
		if f := wrong(r, n); f != nil {
			return f
		}
		return drip
	}
	gprs := fp.Throttle(2<<10, time.Second)
	for name, second := range map[string]func(*http.Request, int) fp.Fault{
		"the other is good":                    after(1, fp.Cut(mib), nil),
		"the other is on a link of 2 KiB/s":    after(1, fp.Cut(mib), gprs),
		"the other has something wrong to say": after(2, fp.Cut(mib), fp.Corrupt(0)),
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				a := &fp.Proxy{Next: serve(want), Pick: wrongThenDrips}
				b := &fp.Proxy{Next: serve(want), Pick: second}
				f := setup(t, fetch.Options{Warn: func(err error) { t.Log(err) }}, a, b)
				start := time.Now()
				file, err := f.Blob(t.Context(), blobOf(want))
				t.Logf("%v; %d and %d requests, %d and %d bytes", time.Since(start), a.Requests(), b.Requests(), a.Sent(), b.Sent())
				if err != nil {
					t.Fatal(err)
				}
				if !bytes.Equal(read(t, file), want) {
					t.Error("wrong content")
				}
				if took := time.Since(start); took > 7*time.Hour || name == "the other is good" && took > 2*time.Minute {
					t.Errorf("it took %v", took)
				}
			})
		})
	}
}

//go:build vm

package lab

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/http/httputil"
	"net/url"
	"os"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/sealboot/sealboot/attest/wire"
	"github.com/sealboot/sealboot/boot/boottest/faultproxy"
	"github.com/sealboot/sealboot/qemu"
)

// TestAttestdGone boots while no one answers for attestd: the image is measured
// and nothing can be released.
func TestAttestdGone(t *testing.T) {
	l := machine(t)
	l.server.Stop(5 * time.Second)
	t.Cleanup(func() { restart(t, l) })
	b := switchOn(t, l, l.Machine())
	wantRefusal(t, b, "attest", "attestd cannot be reached")
	wantEnd(t, b, reset)
	wantBlank(t, l)
}

func restart(t *testing.T, l *Lab) {
	if err := l.startAttestd(context.Background()); err != nil {
		t.Error(err)
	}
}

// TestAttestdAnswersGarbage answers hello with a page of a hotel's network, and
// cuts what follows in half.
func TestAttestdAnswersGarbage(t *testing.T) {
	l := machine(t)
	front := l.attestd
	l.o.Tamper = TamperLog // restored like it
	t.Cleanup(func() { restore(t, l, l.loader, front) })
	intercepted := l.intercept(t.Context(), func(x *exchange) error {
		if err := x.forwardToServer(x.request); err != nil {
			return err
		}
		if x.path == wire.PathHello {
			x.answer = []byte("<html>Welcome to our network")
		} else {
			x.answer = x.answer[:len(x.answer)/2]
		}
		return nil
	})
	if intercepted != nil {
		t.Fatal(intercepted)
	}
	b := switchOn(t, l, l.Machine())
	wantRefusal(t, b, "attest", "breaks the protocol")
	if !strings.Contains(b.Console, "warning: no signed time") {
		t.Error("the console does not warn about the answer to hello")
	}
	wantEnd(t, b, reset)
	wantReleases(t, l, 0)
	wantBlank(t, l)
}

// TestRegistryGone boots while no one answers for the registry.
func TestRegistryGone(t *testing.T) {
	l := machine(t)
	l.images.Stop(5 * time.Second)
	t.Cleanup(func() { restartRegistry(t, l) })
	b := switchOn(t, l, l.Machine())
	wantRefusal(t, b, "fetch", "refused")
	wantEnd(t, b, poweroff)
	wantReleases(t, l, 0)
	wantBlank(t, l)
}

func restartRegistry(t *testing.T, l *Lab) {
	var err error
	if l.images, err = startRegistry(context.Background(), l.path("registry"), l.registry); err != nil {
		t.Error(err)
	}
}

// TestRegistryBroken answers the first round with garbage, ends the layers of the
// second before their first byte, and in the end has lost them.
func TestRegistryBroken(t *testing.T) {
	l := machine(t)
	var cut atomic.Int32
	frontRegistry(t, l, func(next http.Handler) http.Handler { return breakRegistry(next, &cut) })
	b := switchOn(t, l, l.Machine())
	wantRefusal(t, b, "fetch")
	wantEnd(t, b, poweroff)
	wantReleases(t, l, 0)
	wantBlank(t, l)
	if n := cut.Load(); n <= maxCut {
		t.Errorf("a layer that was cut was asked for %d times, want more than %d", n, maxCut)
	}
	var reasons []string
	for _, e := range b.Events {
		if e.Event == "failed" {
			reasons = append(reasons, e.Text)
		}
	}
	if len(reasons) != 2 {
		t.Errorf("%d failures, want one in each round: %q", len(reasons), reasons)
	}
}

// frontRegistry puts somebody in front of the registry until the test ends.
func frontRegistry(t *testing.T, l *Lab, wrap func(http.Handler) http.Handler) {
	t.Helper()
	front := l.registry
	l.images.Stop(5 * time.Second)
	t.Cleanup(func() {
		l.images.Stop(5 * time.Second)
		l.registry = front
		restartRegistry(t, l)
	})
	var err error
	if l.registry, err = freePort(); err != nil {
		t.Fatal(err)
	}
	restartRegistry(t, l)
	behind := &url.URL{Scheme: "http", Host: fmt.Sprintf("127.0.0.1:%d", l.registry)}
	listen, err := net.Listen("tcp", fmt.Sprintf("127.0.0.1:%d", front))
	if err != nil {
		t.Fatal(err)
	}
	s := &http.Server{ReadHeaderTimeout: time.Minute, Handler: wrap(httputil.NewSingleHostReverseProxy(behind))}
	go func() { _ = s.Serve(listen) }()
	t.Cleanup(func() { _ = s.Close() })
}

// maxCut is how many answers are cut; the loader would go on for minutes.
const maxCut = 4

// breakRegistry counts what is asked of the blobs.
func breakRegistry(next http.Handler, blobs *atomic.Int32) http.Handler {
	var manifests atomic.Int32
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		switch {
		case strings.Contains(r.URL.Path, "/manifests/") && manifests.Add(1) == 1:
			w.Header().Set("Content-Type", "application/vnd.oci.image.manifest.v1+json")
			fmt.Fprint(w, "{\"schemaVersion\": 2, garbage")
		case strings.Contains(r.URL.Path, "/blobs/") && blobs.Add(1) > maxCut:
			http.NotFound(w, r)
		case strings.Contains(r.URL.Path, "/blobs/"):
			w.Header().Set("Content-Length", "1000000")
			w.WriteHeader(http.StatusOK)
			panic(http.ErrAbortHandler)
		default:
			next.ServeHTTP(w, r)
		}
	})
}

// TestPowerCut pulls the plug in the middle of a download. The machine's cache
// volume keeps what has arrived, and the next boot fetches the rest.
func TestPowerCut(t *testing.T) {
	const (
		before = 28 << 20 // bytes of a request that arrive before the cut
		mark   = 8 << 20  // bytes after which the cache notes how far it is
		ahead  = 16 << 20 // bytes that other requests bring from behind one that stalls
		small  = 1 << 20  // manifests, configuration, and what is in no blob of that size
	)
	l := machine(t)
	cache := l.unitPath("cache.img")
	if err := errors.Join(os.WriteFile(cache, nil, 0o600), os.Truncate(cache, 256<<20)); err != nil {
		t.Fatal(err)
	}
	if _, err := l.run(t.Context(), ".", "mkfs.ext4", "-q", "-L", "SB-CACHE", cache); err != nil {
		t.Fatal(err)
	}
	var steady atomic.Bool
	proxy := new(faultproxy.Proxy)
	proxy.Pick = func(r *http.Request, _ int) faultproxy.Fault {
		switch {
		case steady.Load() || !strings.Contains(r.URL.Path, "/blobs/"):
			return nil
		case proxy.Sent() >= before: // a machine that tries again finds nothing better
			return faultproxy.Stall(0)
		}
		return faultproxy.Stall(before)
	}
	frontRegistry(t, l, func(next http.Handler) http.Handler { proxy.Next = next; return proxy })
	c := l.Machine()
	c.Disks = append(c.Disks, qemu.Disk{Path: cache})
	if _, err := l.bootWith(t.Context(), c, func(vm *qemu.VM) error {
		for was := int64(-1); proxy.Sent() < before || proxy.Sent() != was; {
			was = proxy.Sent()
			select {
			case <-vm.Done():
				return errors.New("the machine ended before the cut")
			case <-time.After(5 * time.Second):
			}
		}
		vm.Stop()
		return nil
	}); err != nil {
		t.Fatal(err)
	}
	first := proxy.Sent()
	steady.Store(true)
	wantUp(t, switchOn(t, l, c))
	image, err := l.image()
	if err != nil {
		t.Fatal(err)
	}
	manifest, err := image.Manifest()
	if err != nil {
		t.Fatal(err)
	}
	var size int64
	for _, layer := range manifest.Layers {
		size += layer.Size
	}
	twice := proxy.Sent() - size
	t.Logf("%d bytes before the cut, %d after it, %d of the image's %d twice", first, proxy.Sent()-first, twice, size)
	if twice > mark+ahead+small {
		t.Errorf("%d bytes were fetched twice, want at most %d", twice, mark+ahead+small)
	}
}

//go:build vm

package lab

import (
	"context"
	"fmt"
	"net"
	"net/http"
	"net/http/httputil"
	"net/url"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/sealboot/sealboot/attest/wire"
)

// TestAttestdGone boots while nobody answers for attestd: the image is measured
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

// TestRegistryGone boots while nobody answers for the registry.
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
	var cut atomic.Int32
	stop, err := brokenRegistry(front, l.registry, &cut)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(stop)
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

// maxCut is how many answers are cut; the loader would go on for minutes.
const maxCut = 4

// brokenRegistry stands in front of a registry, and counts what is asked of its blobs.
func brokenRegistry(front, behind int, blobs *atomic.Int32) (stop func(), err error) {
	target, err := url.Parse(fmt.Sprintf("http://127.0.0.1:%d", behind))
	if err != nil {
		return nil, err
	}
	var manifests atomic.Int32
	proxy := httputil.NewSingleHostReverseProxy(target)
	listen, err := net.Listen("tcp", fmt.Sprintf("127.0.0.1:%d", front))
	if err != nil {
		return nil, err
	}
	s := &http.Server{ReadHeaderTimeout: time.Minute, Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
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
			proxy.ServeHTTP(w, r)
		}
	})}
	go func() { _ = s.Serve(listen) }()
	return func() { _ = s.Close() }, nil
}

package loader

import (
	"archive/tar"
	"bytes"
	"crypto"
	"crypto/ed25519"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"testing"
	"time"

	"github.com/sealboot/sealboot/boot/config"
	"github.com/sealboot/sealboot/boot/flow"
	"github.com/sealboot/sealboot/boot/publish/tufrepo"
	"github.com/sealboot/sealboot/boot/source/tuf"
	"github.com/sealboot/sealboot/measure/event"
	"github.com/sealboot/sealboot/measure/floor"
)

// A publisher is an operator's TUF repository with the image of the world as the
// target "os": an OCI layout in a tar.
type publisher struct {
	w     *world
	repo  *tufrepo.Repo
	dir   string
	keys  []crypto.Signer
	image string // the tar
}

func (w *world) publisher() *publisher {
	t := w.t
	t.Helper()
	_, key, err := ed25519.GenerateKey(nil)
	if err != nil {
		t.Fatal(err)
	}
	p := &publisher{w: w, dir: t.TempDir(), keys: []crypto.Signer{key}, image: filepath.Join(t.TempDir(), "os.tar")}
	if err := os.WriteFile(p.image, directoryTar(t, filepath.Join(w.copyToLayout(), "os")), 0o600); err != nil {
		t.Fatal(err)
	}
	if p.repo, err = tufrepo.Open(t.Context(), p.dir, tufrepo.Operator{State: p.dir + ".state"}); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { p.repo.Close() })
	changes := []tufrepo.Change{tufrepo.Create()}
	for _, role := range []string{tuf.RoleRoot, tuf.RoleTimestamp, tuf.RoleSnapshot, tuf.RoleTargets} {
		changes = append(changes, tufrepo.AddKey(role, key.Public()))
	}
	p.apply(changes...)
	w.layout = filepath.Join(t.TempDir(), "stick")
	if err := os.Mkdir(w.layout, 0o755); err != nil {
		t.Fatal(err)
	}
	root, err := os.ReadFile(filepath.Join(p.dir, "metadata", "1.root.json"))
	if err != nil {
		t.Fatal(err)
	}
	w.registry.Close()
	w.conf.Sources = []config.Source{{Type: config.SourceMedia, Root: root, Target: "os"}}
	return p
}

func directoryTar(t *testing.T, dir string) []byte {
	t.Helper()
	var b bytes.Buffer
	w := tar.NewWriter(&b)
	if err := errors.Join(w.AddFS(os.DirFS(dir)), w.Close()); err != nil {
		t.Fatal(err)
	}
	return b.Bytes()
}

func (p *publisher) apply(changes ...tufrepo.Change) {
	p.w.t.Helper()
	if s, err := p.repo.Apply(p.w.t.Context(), time.Now(), p.keys, changes...); err != nil || !s.Published {
		p.w.t.Fatal(s, err)
	}
}

// publish makes the image this version of the target.
func (p *publisher) publish(version int) {
	p.w.t.Helper()
	custom := json.RawMessage(fmt.Sprintf(`{"sealboot":{"kind":"bundle","version":%d,"architecture":%q}}`, version, runtime.GOARCH))
	p.apply(tufrepo.AddTarget(tufrepo.Target{Name: "os", File: p.image, Custom: custom}))
}

// stick writes a bundle of what is published, made then, and returns it.
func (p *publisher) stick(then time.Time) []byte {
	p.w.t.Helper()
	var b bytes.Buffer
	if _, err := p.repo.Bundle(p.w.t.Context(), then, tufrepo.Bundle{Lifetime: time.Hour, Keys: p.keys}, &b); err != nil {
		p.w.t.Fatal(err)
	}
	p.insert(b.Bytes())
	return b.Bytes()
}

func (p *publisher) insert(bundle []byte) {
	p.w.t.Helper()
	if err := os.WriteFile(filepath.Join(p.w.layout, "os.tar"), bundle, 0o600); err != nil {
		p.w.t.Fatal(err)
	}
}

// TestBundle boots from a stick, without a registry, and never from an older one.
func TestBundle(t *testing.T) {
	w := newWorld(t)
	p := w.publisher()
	p.publish(1)
	first := p.stick(time.Now())
	w.boots(event.FloorNV)
	if got := w.pcr12(); got != w.afterCap() {
		t.Errorf("PCR 12 = %s; from the registry %s", got, w.afterCap())
	}
	p.publish(2)
	p.stick(time.Now())
	w.boots(event.FloorNV)
	p.insert(first)
	w.refuses(floor.ErrRollback)
}

func TestBundleRefused(t *testing.T) {
	for _, c := range []struct {
		name   string
		change func(p *publisher)
		says   string
	}{
		{"expired", func(p *publisher) { p.stick(time.Now().Add(-2 * time.Hour)) }, "expired"},
		{"changed", func(p *publisher) {
			p.insert(bytes.Replace(p.stick(time.Now()), []byte("a kernel"), []byte("A kernel"), 1))
		}, "digest differs"},
		{"another target", func(p *publisher) { p.stick(time.Now()); p.w.conf.Sources[0].Target = "other" }, "other"},
		{"empty stick", func(*publisher) {}, "no TUF bundle"},
		{"not an image", func(p *publisher) {
			if err := os.WriteFile(p.image, []byte("not a tar"), 0o600); err != nil {
				p.w.t.Fatal(err)
			}
			p.publish(2)
			p.stick(time.Now())
		}, "OCI layout"},
	} {
		t.Run(c.name, func(t *testing.T) {
			w := newWorld(t)
			p := w.publisher()
			p.publish(1)
			c.change(p)
			outcome, err := w.boot()
			if outcome != flow.Reboot || err == nil || !strings.Contains(err.Error(), c.says) || w.loaded != nil {
				t.Errorf("boot: %v, %v; want %q", outcome, err, c.says)
			}
		})
	}
}

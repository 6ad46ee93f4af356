package tuf_test

import (
	"encoding/json"
	"errors"
	"io"
	"os"
	"testing"
	"time"

	"github.com/sealboot/sealboot/boot/boottest/tuftest"
	"github.com/sealboot/sealboot/boot/source/tuf"
	"github.com/sealboot/sealboot/boot/source/tuf/store"
)

// device is a client with its disk, in front of a repository.
type device struct {
	t    *testing.T
	repo *tuftest.Repo
	cfg  tuf.Config
}

func newDevice(t *testing.T) *device {
	t.Helper()
	return deviceOf(t, tuftest.New(t))
}

func deviceOf(t *testing.T, repo *tuftest.Repo) *device {
	return &device{t: t, repo: repo, cfg: tuf.Config{
		TrustedRoot:  repo.Published["root"][0],
		Store:        &store.Memory{},
		Repositories: []tuf.Repository{tuf.Web{URL: repo.URL + "/metadata"}},
		Targets: tuf.Streamed{URL: repo.URL + "/targets", Create: func() (*os.File, error) {
			return os.CreateTemp(t.TempDir(), "")
		}},
		Now: time.Now(),
	}}
}

func (d *device) client() *tuf.Client {
	d.t.Helper()
	c, err := tuf.New(d.cfg)
	if err != nil {
		d.t.Fatal(err)
	}
	return c
}

func (d *device) refresh() error { return d.client().Refresh(d.t.Context()) }

// get is what a boot does: refresh, find, download.
func (d *device) get(name string) (string, error) {
	c := d.client()
	if err := c.Refresh(d.t.Context()); err != nil {
		return "", err
	}
	target, err := c.Find(d.t.Context(), name)
	if err != nil {
		return "", err
	}
	f, err := c.Download(d.t.Context(), target)
	if err != nil {
		return "", err
	}
	defer f.Close()
	data, err := io.ReadAll(f)
	return string(data), err
}

// want fails the test unless err is target; a nil target wants success.
func want(t *testing.T, err, target error) {
	t.Helper()
	if target == nil && err != nil {
		t.Fatal(err)
	}
	if target != nil && !errors.Is(err, target) {
		t.Fatalf("got %v, want %v", err, target)
	}
}

// edit changes metadata as JSON, so that any nonsense can be written.
func edit(t *testing.T, data []byte, f func(md map[string]any)) []byte {
	t.Helper()
	var md map[string]any
	if err := json.Unmarshal(data, &md); err != nil {
		t.Fatal(err)
	}
	f(md)
	out, err := json.Marshal(md)
	if err != nil {
		t.Fatal(err)
	}
	return out
}

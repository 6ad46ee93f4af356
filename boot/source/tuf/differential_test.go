package tuf_test

import (
	"encoding/json"
	"fmt"
	"io"
	"math/rand/v2"
	"net/http"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/theupdateframework/go-tuf/v2/metadata"
	"github.com/theupdateframework/go-tuf/v2/metadata/config"
	"github.com/theupdateframework/go-tuf/v2/metadata/updater"

	"github.com/sealboot/sealboot/boot/boottest/tuftest"
	"github.com/sealboot/sealboot/boot/source/tuf/store"
)

// TestDifferential leads this client and go-tuf's own updater through the same
// random life of a repository. They have to agree on what they trust.
func TestDifferential(t *testing.T) {
	for seed := range uint64(12) {
		t.Run(fmt.Sprint(seed), func(t *testing.T) {
			t.Parallel()
			rng := rand.New(rand.NewPCG(seed, 1))
			d := newDevice(t)
			dir := t.TempDir()
			ours, release, err := store.Open(t.TempDir())
			want(t, err, nil)
			defer release()
			d.cfg.Store = ours
			for step := range 12 {
				what := change(d.repo, rng)
				theirs := goTUF(t, dir, d)
				own := d.refresh()
				if (own == nil) != (theirs == nil) {
					t.Fatalf("step %d, %s: ours %v, go-tuf's %v", step, what, own, theirs)
				}
				for _, role := range []string{"root", "timestamp", "snapshot", "targets"} {
					a, _ := ours.Load(role)
					b, _ := os.ReadFile(filepath.Join(dir, role+".json"))
					if string(a) != string(b) {
						t.Fatalf("step %d, %s: another %s: ours %s, go-tuf's %s", step, what, role, brief(a), brief(b))
					}
				}
			}
		})
	}
}

func brief(data []byte) string {
	var md struct{ Signed struct{ Version int } }
	if json.Unmarshal(data, &md) != nil {
		return "none"
	}
	return fmt.Sprint("version ", md.Signed.Version)
}

var all = []string{"targets", "snapshot", "timestamp"}

// change does one thing to the repository and says which.
func change(r *tuftest.Repo, rng *rand.Rand) string {
	past := time.Now().UTC().AddDate(0, 0, -1)
	role := []string{"root", "timestamp", "snapshot", "targets"}[rng.IntN(4)]
	switch n := rng.IntN(10); n {
	case 0:
		r.RotateKeys(role)
		r.Publish(append([]string{"root"}, all...)...)
		return "rotate " + role
	case 1:
		r.Timestamp.Signed.Expires = past
		r.Publish("timestamp")
		r.Timestamp.Signed.Expires = r.Expiry
		return "expired timestamp"
	case 2:
		r.Snapshot.Signed.Expires = past
		r.Publish("snapshot", "timestamp")
		r.Snapshot.Signed.Expires = r.Expiry
		return "expired snapshot"
	case 3:
		r.HashMetadata = !r.HashMetadata
		r.Publish(all...)
		return "hashes"
	case 4:
		if v := &r.Timestamp.Signed.Version; *v > 2 {
			*v -= 2
		}
		r.Publish("timestamp")
		return "older timestamp"
	case 5:
		kept := r.Signers[role]
		r.Signers[role] = nil
		r.Publish(role)
		r.Signers[role] = kept
		if role != "root" {
			r.Publish("timestamp")
		} else {
			r.Published["root"] = r.Published["root"][:len(r.Published["root"])-1]
			r.Root.Signed.Version--
		}
		return "unsigned " + role
	case 6:
		p := r.Published[role]
		p[len(p)-1] = append([]byte(" "), p[len(p)-1]...)
		return "other bytes of " + role
	case 7:
		r.Publish("targets") // not named by the snapshot
		return "targets alone"
	default:
		r.Publish(all...)
		return "publish"
	}
}

// goTUF is one refresh with go-tuf's updater, given the newest root that it has.
func goTUF(t *testing.T, dir string, d *device) error {
	t.Helper()
	root, err := os.ReadFile(filepath.Join(dir, "root.json"))
	if err != nil {
		root = d.cfg.TrustedRoot
	}
	cfg, err := config.New(d.repo.URL+"/metadata", root)
	want(t, err, nil)
	cfg.LocalMetadataDir, cfg.LocalTargetsDir = dir, t.TempDir()
	cfg.Fetcher = oneTry{}
	up, err := updater.New(cfg)
	want(t, err, nil)
	return up.Refresh()
}

// oneTry is a fetcher of go-tuf without retries.
type oneTry struct{}

func (oneTry) DownloadFile(url string, max int64, _ time.Duration) ([]byte, error) {
	resp, err := http.Get(url)
	if err != nil {
		return nil, err
	}
	defer resp.Body.Close()
	if resp.StatusCode != http.StatusOK {
		return nil, &metadata.ErrDownloadHTTP{StatusCode: resp.StatusCode, URL: url}
	}
	return io.ReadAll(io.LimitReader(resp.Body, max))
}

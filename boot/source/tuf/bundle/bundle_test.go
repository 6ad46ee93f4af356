package bundle_test

import (
	"archive/tar"
	"bytes"
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/theupdateframework/go-tuf/v2/metadata"
	"golang.org/x/sys/unix"

	"github.com/sealboot/sealboot/boot/base/survey"
	"github.com/sealboot/sealboot/boot/boottest/tuftest"
	"github.com/sealboot/sealboot/boot/publish/sign"
	"github.com/sealboot/sealboot/boot/source/tuf"
	"github.com/sealboot/sealboot/boot/source/tuf/bundle"
	"github.com/sealboot/sealboot/boot/source/tuf/store"
)

type entry struct {
	name string
	data []byte
	kind byte
}

func tarball(t *testing.T, entries ...entry) []byte {
	t.Helper()
	var b bytes.Buffer
	w := tar.NewWriter(&b)
	for _, e := range entries {
		h := &tar.Header{Name: e.name, Size: int64(len(e.data)), Mode: 0o644, Typeflag: e.kind}
		if err := w.WriteHeader(h); err != nil {
			t.Fatal(err)
		}
		if _, err := w.Write(e.data); err != nil {
			t.Fatal(err)
		}
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	return b.Bytes()
}

func file(t *testing.T, data []byte) string {
	t.Helper()
	name := filepath.Join(t.TempDir(), "bundle.tar")
	if err := os.WriteFile(name, data, 0o644); err != nil {
		t.Fatal(err)
	}
	return name
}

// TestPipes has named pipes where a directory's files would be: reading does not wait for a writer.
func TestPipes(t *testing.T) {
	dir := t.TempDir()
	for _, name := range []string{bundle.MetadataDir, bundle.TargetsDir} {
		if err := os.Mkdir(filepath.Join(dir, name), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	for _, name := range []string{bundle.SealFile, bundle.MetadataDir + "/timestamp.json", bundle.TargetsDir + "/os"} {
		if err := unix.Mkfifo(filepath.Join(dir, name), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	b, err := bundle.Open(t.Context(), dir, nil)
	if err != nil {
		t.Fatal(err)
	}
	defer b.Close()
	if _, err := b.Seal(t.Context(), 100); err == nil {
		t.Error("read a pipe as the seal")
	}
	if _, err := b.Metadata(t.Context(), "timestamp.json", 100); err == nil {
		t.Error("read a pipe as metadata")
	}
	if _, err := b.Target(t.Context(), "os", tuf.Want{Size: 1, SHA256: make([]byte, 32)}); err == nil {
		t.Error("read a pipe as a target")
	}
}

func TestHostileTars(t *testing.T) {
	good := tarball(t, entry{"metadata/timestamp.json", []byte("x"), tar.TypeReg})
	for name, data := range map[string][]byte{
		"link":     tarball(t, entry{"a", nil, tar.TypeSymlink}),
		"device":   tarball(t, entry{"a", nil, tar.TypeChar}),
		"repeated": tarball(t, entry{"a", nil, tar.TypeReg}, entry{"./a", nil, tar.TypeReg}),
		"garbage":  bytes.Repeat([]byte("garbage"), 1000),
		"sparse":   sparseTar(t),
	} {
		if _, err := bundle.Open(t.Context(), file(t, data), nil); !errors.Is(err, bundle.ErrFormat) {
			t.Errorf("%s: %v, want %v", name, err, bundle.ErrFormat)
		}
	}
	// A header that is whole may announce bytes that are not there.
	if cut, err := bundle.Open(t.Context(), file(t, good[:512]), nil); err == nil {
		if data, err := cut.Metadata(t.Context(), "timestamp.json", 100); err == nil && len(data) > 0 {
			t.Errorf("cut: read %q", data)
		}
		cut.Close()
	}
	b, err := bundle.Open(t.Context(), file(t, good), nil)
	if err != nil {
		t.Fatal(err)
	}
	defer b.Close()
	if _, err := b.Metadata(t.Context(), "timestamp.json", 0); !errors.Is(err, tuf.ErrTooLarge) {
		t.Errorf("larger than its limit: %v", err)
	}
	directory, err := bundle.OpenDirectory(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	defer directory.Close()
	for _, f := range []*bundle.Directory{b.Directory, directory} { // missing, and outside
		for _, name := range []string{"x", "../../x"} {
			if _, err := f.Metadata(t.Context(), name, 10); !errors.Is(err, tuf.ErrNotFound) {
				t.Errorf("metadata %s of %s: %v", name, f, err)
			}
			if _, err := f.Target(t.Context(), name, tuf.Want{}); !errors.Is(err, tuf.ErrNotFound) {
				t.Errorf("target %s of %s: %v", name, f, err)
			}
		}
	}
}

// TestTarget: what a stick holds is handed out if it is exactly what was signed.
func TestTarget(t *testing.T) {
	const name, content = "os/1/uki", "content"
	dir := t.TempDir()
	path := filepath.Join(dir, bundle.TargetsDir, filepath.FromSlash(name))
	if err := errors.Join(os.MkdirAll(filepath.Dir(path), 0o755), os.WriteFile(path, []byte(content), 0o644)); err != nil {
		t.Fatal(err)
	}
	sum, full := sha256.Sum256([]byte(content)), errors.New("no space left on device")
	want := tuf.Want{Size: int64(len(content)), SHA256: sum[:]}
	gone, cancel := context.WithCancel(t.Context())
	cancel()
	for _, place := range []string{dir, file(t, tarball(t, entry{bundle.TargetsDir + "/" + name, []byte(content), tar.TypeReg}))} {
		b, err := bundle.Open(t.Context(), place, nil)
		if err != nil {
			t.Fatal(err)
		}
		defer b.Close()
		f, err := b.Target(t.Context(), name, want)
		if err != nil {
			t.Fatal(err)
		}
		if got, err := io.ReadAll(f); err != nil || string(got) != content {
			t.Errorf("%s: %q, %v", place, got, err)
		}
		f.Close()
		for _, other := range []tuf.Want{{Size: 6, SHA256: sum[:]}, {Size: 8, SHA256: sum[:]}, {Size: 7, SHA256: make([]byte, 32)}, {Size: 7}} {
			if _, err := b.Target(t.Context(), name, other); !errors.Is(err, tuf.ErrMismatch) {
				t.Errorf("%s as %+v: %v, want %v", place, other, err, tuf.ErrMismatch)
			}
		}
		if _, err := b.Target(gone, name, want); !errors.Is(err, context.Canceled) {
			t.Errorf("%s, cancelled: %v", place, err)
		}
		b.Create = func() (*os.File, error) { return nil, full }
		if _, err := b.Target(t.Context(), name, want); !errors.Is(err, full) {
			t.Errorf("%s, with no place to put it: %v", place, err)
		}
		b.Create = func() (*os.File, error) { return os.Open(os.DevNull) } // not for writing
		if _, err := b.Target(t.Context(), name, want); err == nil {
			t.Errorf("%s: success, written to nowhere", place)
		}
	}
	if _, err := bundle.Open(t.Context(), filepath.Join(dir, "nothing"), nil); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("a bundle that is not there: %v", err)
	}
}

func FuzzOpen(f *testing.F) {
	f.Add([]byte{})
	f.Add(bytes.Repeat([]byte{0}, 1024))
	f.Fuzz(func(t *testing.T, data []byte) {
		b, err := bundle.Open(t.Context(), file(t, data), nil)
		if err != nil {
			return
		}
		defer b.Close()
		_, _ = b.Metadata(t.Context(), "timestamp.json", 1000)
		_, _ = b.Seal(t.Context(), 1000)
	})
}

// sealed is a bundle of a repository: a directory, so that tests can change it.
func sealed(t *testing.T, repo *tuftest.Repo, expires time.Time, signers ...tuftest.Signer) string {
	t.Helper()
	dir := t.TempDir()
	write := func(name string, data []byte) {
		path := filepath.Join(dir, filepath.FromSlash(name))
		if err := errors.Join(os.MkdirAll(filepath.Dir(path), 0o755), os.WriteFile(path, data, 0o644)); err != nil {
			t.Fatal(err)
		}
	}
	ts := repo.Last("timestamp")
	write("metadata/timestamp.json", ts)
	write("metadata/1.root.json", repo.Last("root"))
	write("metadata/1.snapshot.json", repo.Last("snapshot"))
	write("metadata/1.targets.json", repo.Last("targets"))
	md := metadata.Targets(expires)
	md.Signed.Type = tuf.SealType
	sum := sha256.Sum256(ts)
	md.Signed.Targets["timestamp.json"] = &metadata.TargetFiles{Length: int64(len(ts)), Hashes: metadata.Hashes{"sha256": sum[:]}}
	for _, s := range signers {
		if err := sign.Metadata(md, s.ID, s.Key); err != nil {
			t.Fatal(err)
		}
	}
	seal, err := md.ToBytes(false)
	if err != nil {
		t.Fatal(err)
	}
	write(bundle.SealFile, seal)
	return dir
}

func refresh(t *testing.T, repo *tuftest.Repo, dir string, now time.Time) error {
	t.Helper()
	return refreshWith(t, repo, dir, now, &store.Memory{})
}

func refreshWith(t *testing.T, repo *tuftest.Repo, dir string, now time.Time, cache tuf.Store) error {
	t.Helper()
	b, err := bundle.Open(t.Context(), dir, nil)
	if err != nil {
		t.Fatal(err)
	}
	defer b.Close()
	c, err := tuf.New(tuf.Config{TrustedRoot: repo.Last("root"), Store: cache, Now: now, Repositories: []tuf.Repository{b}, Targets: b})
	if err != nil {
		t.Fatal(err)
	}
	return c.Refresh(t.Context())
}

// sparseTar has a file whose bytes in the tar are not those that a reader of the tar would give. The tar package
// writes none, so the records of the format are those of a plain file, renamed.
func sparseTar(t *testing.T) []byte {
	t.Helper()
	var b bytes.Buffer
	w := tar.NewWriter(&b)
	h := &tar.Header{Name: "a", Size: 4, Mode: 0o644, Typeflag: tar.TypeReg, Format: tar.FormatPAX,
		PAXRecords: map[string]string{"GNUxsparse.realsize": "4"}}
	if err := w.WriteHeader(h); err != nil {
		t.Fatal(err)
	}
	if _, err := w.Write([]byte("data")); err != nil {
		t.Fatal(err)
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	return bytes.Replace(b.Bytes(), []byte("GNUxsparse"), []byte("GNU.sparse"), 1)
}

func TestSeal(t *testing.T) {
	repo := tuftest.New(t)
	long := repo.Expiry.AddDate(1, 0, 0)
	repo.Root.Signed.Expires, repo.Targets().Expires = long, long
	repo.Published = map[string][][]byte{}
	repo.Publish("targets", "snapshot", "timestamp", "root") // timestamp and snapshot are short-lived
	now, late := time.Now(), repo.Expiry.AddDate(0, 1, 0)
	targets, ts := repo.Signers["targets"][0], repo.Signers["timestamp"][0]

	good := sealed(t, repo, repo.Expiry.AddDate(0, 2, 0), targets)
	if err := refresh(t, repo, good, late); err != nil {
		t.Errorf("with an expired timestamp: %v", err)
	}
	if err := refresh(t, repo, good, repo.Expiry.AddDate(0, 2, 0)); !errors.Is(err, tuf.ErrExpired) {
		t.Errorf("at the seal's expiry: %v", err)
	}
	forever := sealed(t, repo, long.AddDate(1, 0, 0), targets)
	if err := refresh(t, repo, forever, long.AddDate(0, 0, 1)); !errors.Is(err, tuf.ErrExpired) {
		t.Errorf("a seal that outlives root and targets: %v", err)
	}
	old := tuftest.New(t) // whose root expires before the seal and targets
	old.Targets().Expires = long
	old.Published = map[string][][]byte{}
	old.Publish("targets", "snapshot", "timestamp", "root")
	if err := refresh(t, old, sealed(t, old, long, old.Signers["targets"][0]), late); !errors.Is(err, tuf.ErrExpired) {
		t.Errorf("a seal that outlives root: %v", err)
	}
	for name, signers := range map[string][]tuftest.Signer{"nobody": nil, "the timestamp key": {ts}} {
		if err := refresh(t, repo, sealed(t, repo, long, signers...), now); !errors.Is(err, tuf.ErrUnverified) {
			t.Errorf("sealed by %s: %v", name, err)
		}
	}
	// Targets metadata is no seal, and a seal is no targets metadata.
	if err := os.WriteFile(filepath.Join(good, bundle.SealFile), repo.Last("targets"), 0o644); err != nil {
		t.Fatal(err)
	}
	if err := refresh(t, repo, good, now); !errors.Is(err, tuf.ErrMalformed) {
		t.Errorf("targets as a seal: %v", err)
	}
	// Another timestamp, however well signed, is not what was sealed.
	good = sealed(t, repo, long, targets)
	repo.Publish("timestamp")
	if err := os.WriteFile(filepath.Join(good, "metadata", "timestamp.json"), repo.Last("timestamp"), 0o644); err != nil {
		t.Fatal(err)
	}
	if err := refresh(t, repo, good, now); !errors.Is(err, tuf.ErrUnverified) {
		t.Errorf("another timestamp: %v", err)
	}
	if err := os.Remove(filepath.Join(good, bundle.SealFile)); err != nil {
		t.Fatal(err)
	}
	if err := refresh(t, repo, good, now); !errors.Is(err, tuf.ErrNotFound) {
		t.Errorf("no seal: %v", err)
	}
}

// TestBundleIsNoWayBack: a stick that is older than what the device has seen
// online is refused, and one of the same age is not.
func TestBundleIsNoWayBack(t *testing.T) {
	repo := tuftest.New(t)
	stick := sealed(t, repo, repo.Expiry, repo.Signers["targets"][0])
	cache := &store.Memory{}
	online := func() {
		c, err := tuf.New(tuf.Config{TrustedRoot: repo.Last("root"), Store: cache, Now: time.Now(), Repositories: []tuf.Repository{tuf.Web{URL: repo.URL + "/metadata"}}})
		if err == nil {
			err = c.Refresh(t.Context())
		}
		if err != nil {
			t.Fatal(err)
		}
	}
	online()
	if err := refreshWith(t, repo, stick, time.Now(), cache); err != nil {
		t.Errorf("of the same age: %v", err)
	}
	repo.Publish("timestamp")
	online()
	if err := refreshWith(t, repo, stick, time.Now(), cache); !errors.Is(err, tuf.ErrUnverified) {
		t.Errorf("older: %v", err)
	}
}

// TestStrangers: a large tar file that is no bundle does not use up the budget of the one behind it.
func TestStrangers(t *testing.T) {
	entries := make([]entry, 70_000)
	for i := range entries {
		entries[i].name = fmt.Sprintf("home/%d", i)
	}
	budget := survey.NewBudget()
	if _, err := bundle.Open(t.Context(), file(t, tarball(t, entries...)), budget); !errors.Is(err, bundle.ErrFormat) || errors.Is(err, survey.ErrTooMuch) {
		t.Errorf("a backup: %v", err)
	}
	b, err := bundle.Open(t.Context(), file(t, tarball(t, entry{name: bundle.SealFile})), budget)
	if err != nil {
		t.Fatal(err)
	}
	if err := b.Close(); err != nil {
		t.Error(err)
	}
}

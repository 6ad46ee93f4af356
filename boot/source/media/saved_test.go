package media_test

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/sealboot/sealboot/boot/source/cosign"
	"github.com/sealboot/sealboot/boot/source/media"
	"github.com/sealboot/sealboot/boot/source/oci"
)

// saved reads a layout as "cosign save" makes it, and the key that signed its image.
func saved(t *testing.T, name string) (map[string]string, cosign.Key) {
	t.Helper()
	files := map[string]string{}
	dir := filepath.Join("testdata", "saved", name)
	err := filepath.WalkDir(dir, func(path string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() {
			return err
		}
		b, err := os.ReadFile(path)
		if err != nil {
			return err
		}
		rel, err := filepath.Rel(dir, path)
		files[rel] = string(b)
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	pem, err := os.ReadFile(dir + ".pub")
	if err != nil {
		t.Fatal(err)
	}
	key, err := cosign.ParseKey(pem)
	if err != nil {
		t.Fatal(err)
	}
	return files, key
}

// TestCosignSave: the layouts of "cosign save" hold one image, and its signatures
// in both forms count, though they have no tag and are in no list.
func TestCosignSave(t *testing.T) {
	for _, name := range []string{"classic", "bundle"} {
		files, key := saved(t, name)
		dir := t.TempDir()
		writeDir(t, filepath.Join(dir, "directory"), files)
		if err := os.WriteFile(filepath.Join(dir, "x.tar"), tarOf(t, files), 0o600); err != nil {
			t.Fatal(err)
		}
		layouts, err := media.Open(t.Context(), dir, "")
		if err != nil || len(layouts) != 2 {
			t.Fatalf("%s: %d layouts, %v", name, len(layouts), err)
		}
		for _, l := range layouts {
			defer l.Close()
			res, err := oci.Resolve(t.Context(), l, l.Reference(), ocispec.Platform{OS: "linux", Architecture: "amd64"})
			if err != nil {
				t.Errorf("%s: %v", l, err)
				continue
			}
			if got, err := (cosign.Policy{Keys: []cosign.Key{key}}).Admit(t.Context(), l, res.Descriptor); err != nil || len(got) != 1 {
				t.Errorf("%s: admitted by %q, %v", l, got, err)
			}
			other := ocispec.Descriptor{MediaType: ocispec.MediaTypeImageManifest, Digest: digest.FromString("other"), Size: 5}
			if _, err := (cosign.Policy{Keys: []cosign.Key{key}}).Admit(t.Context(), l, other); !errors.Is(err, oci.ErrNotAdmitted) {
				t.Errorf("%s: another image: %v", l, err)
			}
		}
	}
}

// TestAttestationsOnMedium: attestations are listed before the signature, and are
// far more than are looked at of what says that it signs.
func TestAttestationsOnMedium(t *testing.T) {
	files, key := saved(t, "bundle")
	const (
		image     = "f0681e1fcc0e98d24de6922cb1ef1c88a225f99b32fc0428f7fbf7daf3e01343"
		signature = "2a6ff5baed44d6ac073b2fed7caea5967a49cd03f4845141ec7f35000f440311"
		bundle    = "fbd55c6ae6ca88baa7bbece17300ae701326caf23047b3fdfeb2099b0e4b4c01"
	)
	of := files["blobs/sha256/"+signature]
	junk := strings.Repeat(" ", len(files["blobs/sha256/"+bundle]))
	files["blobs/sha256/"+digest.FromString(junk).Encoded()] = junk
	list := []string{descriptor(ocispec.MediaTypeImageManifest, files["blobs/sha256/"+image])}
	for i := range 1000 {
		m := strings.Replace(of, cosign.PredicateType, "https://spdx.dev/Document/"+itoa(i), 1)
		other := strings.Replace(m, bundle, digest.FromString(junk).Encoded(), 1)
		if m == of || other == m {
			t.Fatalf("not the signature's manifest: %s", of)
		}
		m = other
		files["blobs/sha256/"+digest.FromString(m).Encoded()] = m
		list = append(list, descriptor(ocispec.MediaTypeImageManifest, m))
	}
	list = append(list, descriptor(ocispec.MediaTypeImageManifest, of))
	files["index.json"] = `{"schemaVersion":2,"manifests":[` + strings.Join(list, ",") + `]}`
	dir := t.TempDir()
	if err := os.WriteFile(filepath.Join(dir, "x.tar"), tarOf(t, files), 0o600); err != nil {
		t.Fatal(err)
	}
	layouts, err := media.Open(t.Context(), dir, "")
	if err != nil {
		t.Fatal(err)
	}
	defer layouts[0].Close()
	desc := ocispec.Descriptor{MediaType: ocispec.MediaTypeImageManifest, Digest: digest.NewDigestFromEncoded(digest.SHA256, image), Size: 380}
	if _, err := (cosign.Policy{Keys: []cosign.Key{key}}).Admit(t.Context(), layouts[0], desc); err != nil {
		t.Error(err)
	}
}

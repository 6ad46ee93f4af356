package osimage

import (
	"errors"
	"testing"

	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
)

func TestVersion(t *testing.T) {
	store := blobs{}
	config, kernel := store.add(ocispec.MediaTypeEmptyJSON, []byte("{}"), nil), store.add(MediaTypeKernel, testKernel(), nil)
	for text, want := range map[string]uint64{
		"1": 1, "14": 14, "281474976710655": MaxVersion,
		"0": 0, "": 0, "-1": 0, "+1": 0, "01": 0, " 1": 0, "1 ": 0, "1e3": 0, "0x1": 0, "1.0": 0, "١": 0,
		"281474976710656": 0, "18446744073709551615": 0, "99999999999999999999999": 0,
	} {
		got, err := Version(manifestOf(t, ArtifactLinux, config, map[string]string{AnnotationVersion: text}, kernel))
		if want == 0 && !errors.Is(err, ErrInvalid) || want != 0 && (err != nil || got != want) {
			t.Errorf("%q: version %d, %v; want %d", text, got, err, want)
		}
	}
	if v, err := Version(manifestOf(t, ArtifactLinux, config, nil, kernel)); v != 0 || err != nil {
		t.Errorf("no annotation: version %d, %v", v, err)
	}
	if _, err := Version([]byte("{")); !errors.Is(err, ErrInvalid) {
		t.Errorf("no manifest: %v", err)
	}
}

// FuzzVersion checks that a version that is read is written the same.
func FuzzVersion(f *testing.F) {
	for _, text := range []string{"1", "14", "0", "01", "281474976710655", "281474976710656", "-1"} {
		f.Add(text)
	}
	f.Fuzz(func(t *testing.T, text string) {
		v, err := VersionOf(map[string]string{AnnotationVersion: text})
		if err == nil && (v == 0 || v > MaxVersion || FormatVersion(v) != text) {
			t.Errorf("%q is version %d", text, v)
		}
	})
}

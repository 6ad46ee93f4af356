package media

import (
	"bytes"
	"context"
	"encoding/json"
	"io"
	"io/fs"
	"syscall"
	"testing"

	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/sealboot/sealboot/boot/base/survey"
)

// failing are files of which one cannot be read for a while.
type failing struct {
	files
	name string // in its place
}

func (f *failing) open(name string) (*section, error) {
	if name == f.name {
		return nil, &fs.PathError{Op: "read", Path: name, Err: syscall.EIO}
	}
	return f.files.open(name)
}

// memory is a layout in memory.
type memory map[string][]byte

func (m memory) open(name string) (*section, error) {
	raw, ok := m[name]
	if !ok {
		return nil, fs.ErrNotExist
	}
	return &section{io.NewSectionReader(bytes.NewReader(raw), 0, int64(len(raw))), io.NopCloser(nil)}, nil
}

func (memory) blobs(context.Context, *survey.Budget, func(string, int64)) error { return nil }
func (memory) Close() error                                                     { return nil }

// TestFailingReferrer: a signature that the medium could not be read for is not one that
// is not there, now or later, and does not hide the others.
func TestFailingReferrer(t *testing.T) {
	image := digest.FromString("image")
	held := memory{}
	var index ocispec.Index
	for i := range 2 {
		raw, err := json.Marshal(map[string]any{"artifactType": "signature", "n": i, "subject": map[string]any{"digest": image}})
		if err != nil {
			t.Fatal(err)
		}
		d := digest.FromBytes(raw)
		held[blobName(d)] = raw
		index.Manifests = append(index.Manifests, ocispec.Descriptor{MediaType: ocispec.MediaTypeImageManifest, Digest: d, Size: int64(len(raw))})
	}
	f := &failing{held, blobName(index.Manifests[0].Digest)}
	l := newLayout("medium", f, survey.NewBudget())
	l.index = index
	referrers := func() ([]ocispec.Descriptor, error) {
		return l.referrers(context.Background(), ocispec.Descriptor{Digest: image}, "signature")
	}
	if found, err := referrers(); err == nil || len(found) != 1 {
		t.Errorf("while it fails: %d, %v", len(found), err)
	}
	f.name = ""
	if found, err := referrers(); err != nil || len(found) != 2 {
		t.Errorf("later: %d, %v", len(found), err)
	}
}

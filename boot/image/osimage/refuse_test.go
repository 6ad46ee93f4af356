package osimage

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"math"
	"os"
	"strings"
	"testing"

	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/sealboot/sealboot/boot/base/memfd"
	"github.com/sealboot/sealboot/boot/base/meminfo"
	"github.com/sealboot/sealboot/boot/boottest/ukitest"
	"github.com/sealboot/sealboot/boot/image/kexec"
	"github.com/sealboot/sealboot/boot/image/uki"
)

// wantRefused fails the test unless err is target and says message.
func wantRefused(t *testing.T, name string, err, target error, message string) {
	t.Helper()
	if !errors.Is(err, target) || err != nil && !strings.Contains(err.Error(), message) {
		t.Errorf("%s: %v, want %v with %q", name, err, target, message)
	}
}

func TestRefuse(t *testing.T) {
	store := blobs{}
	empty := store.add(ocispec.MediaTypeEmptyJSON, []byte("{}"), nil)
	kernel := store.add(MediaTypeKernel, testKernel(), nil)
	bad := kernel
	bad.Digest = digest.Digest("sha512:" + strings.Repeat("ab", 64))
	store[bad.Digest] = testKernel()
	sized := func(d ocispec.Descriptor, size int64) ocispec.Descriptor { d.Size = size; return d }
	layers := func(n int) []byte { // all but the first have no role
		more := make([]ocispec.Descriptor, n-1)
		for i := range more {
			more[i] = empty
		}
		return manifestOf(t, "", empty, nil, append(more, kernel)...)
	}
	padded := func(n int) []byte {
		m := manifestOf(t, "", empty, nil, kernel)
		return append(m, bytes.Repeat([]byte(" "), n-len(m))...)
	}
	ofUKI := func(sections ...uki.Content) []byte {
		return manifestOf(t, "", empty, nil, store.add(MediaTypeUKI, ukitest.UKI(t, sections...), nil))
	}
	linux := uki.Content{Name: ".linux", Data: testKernel()}
	cmdline := func(n int) uki.Content { return uki.Content{Name: ".cmdline", Data: bytes.Repeat([]byte("x"), n)} }
	huge := store.add(MediaTypeCmdline, nil, nil)
	huge.Size = maxConfig + 1
	helm := store.add("application/vnd.cncf.helm.chart.content.v1.tar+gzip", []byte("x"), nil)
	for name, tc := range map[string]struct {
		manifest []byte
		want     error
		message  string
	}{
		"not JSON":              {[]byte("<html>"), ErrInvalid, "manifest: invalid character"},
		"two documents":         {append(manifestOf(t, "", empty, nil, kernel), "{}"...), ErrInvalid, "data after its end"},
		"long":                  {padded(maxManifest), nil, ""},
		"too long":              {padded(maxManifest + 1), ErrInvalid, "manifest of 4194305 bytes"},
		"other schema":          {bytes.Replace(manifestOf(t, "", empty, nil, kernel), []byte(`"schemaVersion":2`), []byte(`"schemaVersion":1`), 1), ErrInvalid, "schema version 1"},
		"no layers":             {manifestOf(t, "", empty, nil), ErrInvalid, "with 0 layers"},
		"many layers":           {layers(maxLayers), nil, ""},
		"too many layers":       {layers(maxLayers + 1), ErrInvalid, "with 401 layers"},
		"no kernel at all":      {manifestOf(t, "", empty, nil, store.add(MediaTypeKernel, []byte("<html>"), nil)), kexec.ErrFormat, "file of no known format, 6 bytes"},
		"two kernels":           {manifestOf(t, "", empty, nil, kernel, kernel), ErrInvalid, "two layers are a kernel"},
		"sha512":                {manifestOf(t, "", empty, nil, bad), ErrInvalid, "only sha256 is measured"},
		"no digest":             {manifestOf(t, "", ocispec.Descriptor{}, nil, kernel), ErrInvalid, "manifest: blob"},
		"negative size":         {manifestOf(t, "", empty, nil, sized(kernel, -1)), ErrInvalid, "of -1 bytes"},
		"empty config":          {manifestOf(t, "", sized(empty, 0), nil, kernel), nil, ""},
		"sizes":                 {manifestOf(t, "", empty, nil, sized(kernel, math.MaxInt64), store.add(MediaTypeInitrd, []byte("i"), nil)), ErrInvalid, "manifest: blob"},
		"largest size":          {manifestOf(t, "", empty, nil, sized(kernel, maxBlob)), meminfo.ErrShort, "the image needs"},
		"larger":                {manifestOf(t, "", empty, nil, sized(kernel, maxBlob+1)), ErrInvalid, "manifest: blob"},
		"helm chart":            {manifestOf(t, "", empty, nil, helm), ErrUnsupported, "no layer is a kernel"},
		"no PE file":            {manifestOf(t, "", empty, nil, store.add(MediaTypeUKI, testKernel(), nil)), ErrInvalid, "PE"},
		"PE file, no UKI":       {ofUKI(cmdline(1)), ErrInvalid, "is no UKI"},
		"UKI, NULs":             {ofUKI(linux, uki.Content{Name: ".cmdline", Data: []byte{0, 0}}), nil, ""},
		"UKI, long line":        {ofUKI(linux, cmdline(101)), ErrInvalid, "has 101 bytes, the kernel takes 100"},
		"UKI, longest line":     {ofUKI(linux, cmdline(maxCmdline)), ErrInvalid, "the kernel takes 100"},
		"UKI, line beyond that": {ofUKI(linux, cmdline(maxCmdline+1)), ErrInvalid, "16385 bytes in the UKI"},
		"config, large":         {manifestOf(t, "", empty, nil, kernel, store.add(MediaTypeCmdline, bytes.Repeat([]byte(" "), maxConfig), nil)), nil, ""},
		"config too large":      {manifestOf(t, "", empty, nil, kernel, huge), ErrInvalid, "config of 4194305 bytes"},
	} {
		i, err := FromManifest(context.Background(), tc.manifest, store, Options{MemAvailable: plenty})
		wantRefused(t, name, err, tc.want, tc.message)
		if err == nil {
			i.Close()
		}
	}
}

// TestEmptySections: stubs have them, and they are no files.
func TestEmptySections(t *testing.T) {
	for section, want := range map[string]string{".initrd": "", ".linux": "is no UKI"} {
		b := testUKI(t)
		clear(b[bytes.Index(b, []byte(section))+8:][:4]) // its virtual size
		f, err := memfd.Store("uki", func(w *os.File) error { _, err := w.Write(b); return err })
		if err != nil {
			t.Fatal(err)
		}
		i, err := FromUKI(f, Options{MemAvailable: plenty})
		if want != "" {
			wantRefused(t, section, err, ErrInvalid, want)
			continue
		}
		if err != nil {
			t.Fatal(err)
		}
		if i.Initrd != nil {
			t.Errorf("%s is empty and became a file", section)
		}
		i.Close()
	}
}

// TestContainerOrArtifact: only what is a container image through and through is unpacked as one.
func TestContainerOrArtifact(t *testing.T) {
	config := func(mediaType string) ocispec.Descriptor { return ocispec.Descriptor{MediaType: mediaType} }
	layer := config
	for _, c := range []struct {
		container bool
		m         ocispec.Manifest
	}{
		{true, ocispec.Manifest{Config: config(ocispec.MediaTypeImageConfig), Layers: []ocispec.Descriptor{layer(ocispec.MediaTypeImageLayerZstd)}}},
		{true, ocispec.Manifest{Config: config("application/vnd.docker.container.image.v1+json"), Layers: []ocispec.Descriptor{layer("application/vnd.docker.image.rootfs.diff.tar.gzip")}}},
		{false, ocispec.Manifest{Config: config(ocispec.MediaTypeEmptyJSON), Layers: []ocispec.Descriptor{layer(ocispec.MediaTypeImageLayer)}}},
		{false, ocispec.Manifest{Config: config(ocispec.MediaTypeImageConfig), ArtifactType: ArtifactLinux, Layers: []ocispec.Descriptor{layer(ocispec.MediaTypeImageLayer)}}},
		{false, ocispec.Manifest{Config: config(ocispec.MediaTypeImageConfig), Layers: []ocispec.Descriptor{layer(ocispec.MediaTypeImageLayer), layer(MediaTypeKernel)}}},
	} {
		if got := isContainer(&c.m); got != c.container {
			t.Errorf("%+v: container %v, want %v", c.m, got, c.container)
		}
	}
}

// TestCmdlineLimits has the longest lines that are taken, and those that have a byte more.
func TestCmdlineLimits(t *testing.T) {
	for length, want := range map[int]error{maxCmdline: nil, maxCmdline + 1: ErrInvalid} {
		_, err := joinCmdline(strings.Repeat("x", length-2), "y")
		wantRefused(t, "joined", err, want, "command line of 16385 bytes")
	}
	for image, site := range map[string]string{"quiet -- single": "", "quiet": "a=b", `a="b c"`: "d=e"} {
		if _, err := joinCmdline(image, site); err != nil {
			t.Errorf("%q and %q: %v", image, site, err)
		}
	}
	for _, image := range []string{"quiet -- single", `a="b`, "--\n"} {
		_, err := joinCmdline(image, "panic=10")
		wantRefused(t, image, err, ErrInvalid, "the site's part follows it")
	}
	silent := testKernel()
	binary.LittleEndian.PutUint32(silent[0x238:], 0)
	for name, c := range map[string]struct {
		kernel []byte
		takes  int
	}{"says 100": {testKernel(), 100}, "does not say": {silent, x86MaxCmdline}, "not for x86": {[]byte("arm"), x86MaxCmdline}} {
		f, err := memfd.Store("kernel", func(w *os.File) error { _, err := w.Write(c.kernel); return err })
		if err != nil {
			t.Fatal(err)
		}
		defer f.Close()
		wantRefused(t, name, checkCmdline(f, strings.Repeat("x", c.takes)), nil, "")
		wantRefused(t, name, checkCmdline(f, strings.Repeat("x", c.takes+1)), ErrInvalid, "the kernel takes")
	}
}

// TestAnnotatedSize has the sizes of a root that its manifest may tell.
func TestAnnotatedSize(t *testing.T) {
	layer := ocispec.Descriptor{MediaType: ocispec.MediaTypeImageLayer, Digest: digest.FromString("x"), Size: 1}
	for size, want := range map[string]error{
		"0": nil, "35184372088832": nil, "35184372088833": ErrInvalid, "-1": ErrInvalid, "1e3": ErrInvalid,
	} {
		config := ocispec.Descriptor{MediaType: ocispec.MediaTypeImageConfig, Digest: layer.Digest}
		_, err := Estimate(manifestOf(t, "", config, map[string]string{AnnotationUnpacked: size}, layer))
		wantRefused(t, size, err, want, "annotation "+AnnotationUnpacked)
	}
}

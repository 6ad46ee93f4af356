package osimage

import (
	"archive/tar"
	"bytes"
	"compress/gzip"
	"context"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"strings"
	"testing"
	"testing/iotest"

	_ "crypto/sha512" // go-digest knows it then, and would accept it

	"github.com/google/go-cmp/cmp"
	"github.com/klauspost/compress/zstd"
	"github.com/opencontainers/go-digest"
	"github.com/opencontainers/image-spec/specs-go"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/sealboot/sealboot/boot/base/memfd"
	"github.com/sealboot/sealboot/boot/base/meminfo"
	"github.com/sealboot/sealboot/boot/boottest/ukitest"
	"github.com/sealboot/sealboot/boot/image/kexec"
	"github.com/sealboot/sealboot/boot/image/uki"
	"github.com/sealboot/sealboot/measure/event"
)

// blobs is a Content in memory.
type blobs map[digest.Digest][]byte

func (b blobs) Blob(_ context.Context, d ocispec.Descriptor) (*os.File, error) {
	data, ok := b[d.Digest]
	if !ok {
		return nil, fmt.Errorf("no blob %s", d.Digest)
	}
	return memfd.Store("blob", func(w *os.File) error { _, err := w.Write(data); return err })
}

// Stream gives wrong bytes first, as a bad mirror would, in small pieces.
func (b blobs) Stream(_ context.Context, d ocispec.Descriptor, take func(io.Reader) error) error {
	data, ok := b[d.Digest]
	if !ok {
		return fmt.Errorf("no blob %s", d.Digest)
	}
	bad := bytes.Clone(data[:len(data)/2])
	for i := len(bad) / 2; i < len(bad); i++ {
		bad[i] ^= 0x55
	}
	if err := take(io.MultiReader(bytes.NewReader(bad), iotest.ErrReader(errors.New("wrong so far")))); err == nil {
		return errors.New("the end of a stream that broke off was not noticed")
	}
	return take(iotest.HalfReader(bytes.NewReader(data)))
}

func (b blobs) add(mediaType string, data []byte, annotations map[string]string) ocispec.Descriptor {
	d := ocispec.Descriptor{MediaType: mediaType, Digest: digest.FromBytes(data), Size: int64(len(data)), Annotations: annotations}
	b[d.Digest] = data
	return d
}

func manifestOf(t *testing.T, artifactType string, config ocispec.Descriptor, annotations map[string]string, layers ...ocispec.Descriptor) []byte {
	t.Helper()
	b, err := json.Marshal(ocispec.Manifest{
		Versioned: specs.Versioned{SchemaVersion: 2}, MediaType: ocispec.MediaTypeImageManifest,
		ArtifactType: artifactType, Config: config, Layers: layers, Annotations: annotations,
	})
	if err != nil {
		t.Fatal(err)
	}
	return b
}

// memory is a machine with so many bytes.
func memory(have int64) func() (int64, error) {
	return func() (int64, error) { return have, nil }
}

var plenty = memory(1 << 40)

// testKernel is a file with an x86 boot header that takes 100 bytes of command line.
func testKernel() []byte {
	b := []byte(ukitest.BzImage(strings.Repeat("\x00", 1000)))
	binary.LittleEndian.PutUint32(b[0x238:], 100)
	return b
}

// testUKI is a UKI with everything.
func testUKI(t *testing.T) []byte {
	t.Helper()
	return ukitest.UKI(t, uki.Content{Name: ".cmdline", Data: []byte("from=uki\n\x00")},
		uki.Content{Name: ".initrd", Data: []byte("uki initrd")}, uki.Content{Name: ".linux", Data: testKernel()})
}

func tarOf(t *testing.T, files map[string][]byte) []byte {
	t.Helper()
	var buf bytes.Buffer
	w := tar.NewWriter(&buf)
	for name, body := range files {
		if err := w.WriteHeader(&tar.Header{Typeflag: tar.TypeReg, Name: name, Mode: 0o644, Size: int64(len(body))}); err != nil {
			t.Fatal(err)
		}
		if _, err := w.Write(body); err != nil {
			t.Fatal(err)
		}
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	return buf.Bytes()
}

func art(role string, data []byte) event.Artifact {
	return event.Artifact{Role: role, SHA256: digest.FromBytes(data).Encoded(), Size: int64(len(data))}
}

// contents reads an image's files.
func contents(t *testing.T, i *Image) map[string]string {
	t.Helper()
	out := map[string]string{"cmdline": i.Cmdline}
	for name, f := range map[string]*os.File{"kernel": i.Kernel, "initrd": i.Initrd} {
		if f == nil {
			continue
		}
		b, err := io.ReadAll(f)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := f.Write([]byte("x")); err == nil {
			t.Errorf("%s is open for writing", name)
		}
		out[name] = string(b)
	}
	return out
}

func TestArtifacts(t *testing.T) {
	kernel, initrd, dtb := testKernel(), []byte("initrd"), []byte("dtb")
	enc, err := zstd.NewWriter(nil)
	if err != nil {
		t.Fatal(err)
	}
	packed := enc.EncodeAll(initrd, nil)
	store := blobs{}
	empty := store.add(ocispec.MediaTypeEmptyJSON, []byte("{}"), nil)
	title := func(name string) map[string]string { return map[string]string{ocispec.AnnotationTitle: name} }
	tests := map[string]struct {
		manifest []byte
		want     map[string]string
		kind     string
		artifact []event.Artifact
	}{
		"ours": {
			manifestOf(t, ArtifactLinux, empty, nil,
				store.add(MediaTypeInitrd, initrd, nil), store.add(MediaTypeKernel, kernel, nil),
				store.add(MediaTypeDTB, dtb, nil), store.add(MediaTypeCmdline, []byte("a=b\n"), nil)),
			map[string]string{"kernel": string(kernel), "initrd": "initrd", "cmdline": "a=b site"},
			event.KindLinux,
			[]event.Artifact{art("kernel", kernel), art("initrd", initrd), art("cmdline", []byte("a=b site")), art("dtb", dtb)},
		},
		"annotation": {
			manifestOf(t, ArtifactLinux, empty, map[string]string{AnnotationCmdline: "x=y"}, store.add(MediaTypeKernel, kernel, nil)),
			map[string]string{"kernel": string(kernel), "cmdline": "x=y site"},
			event.KindLinux,
			[]event.Artifact{art("kernel", kernel), art("cmdline", []byte("x=y site"))},
		},
		"pulp": {
			// As the specification of pulp/netboot lists the files of one system.
			manifestOf(t, "application/vnd.org.pulpproject.netboot.artifact.v1", empty, map[string]string{"org.pulpproject.netboot.version": "1"},
				store.add(pulpFile, []byte("shim"), title("shim.efi")), store.add(pulpFile, []byte("grub"), title("grubx64.efi")),
				store.add(pulpFile, []byte("pxe"), title("pxelinux.0")),
				store.add(pulpFile, kernel, title("vmlinuz")), store.add(pulpFile+"+zstd", packed, title("initrd.img")),
				store.add(pulpFile, []byte("stage 2"), title("install.img")), store.add(pulpFile, []byte("iso"), title("boot.iso"))),
			map[string]string{"kernel": string(kernel), "initrd": "initrd", "cmdline": "site"},
			event.KindLinux,
			[]event.Artifact{art("kernel", kernel), art("initrd", packed), art("cmdline", []byte("site"))},
		},
		"ironcore": {
			manifestOf(t, "", store.add("application/vnd.ironcore.image.config.v1alpha1+json", []byte(`{"commandLine":"iron=core"}`), nil), nil,
				store.add("application/vnd.ironcore.image.vmlinuz.v1alpha1.vmlinuz", kernel, nil),
				store.add("application/vnd.ironcore.image.initramfs.v1alpha1.initramfs", initrd, nil),
				store.add("application/vnd.ironcore.image.rootfs.v1alpha1.rootfs", []byte("root"), nil)),
			map[string]string{"kernel": string(kernel), "initrd": "initrd", "cmdline": "iron=core site"},
			event.KindLinux,
			[]event.Artifact{art("kernel", kernel), art("initrd", initrd), art("cmdline", []byte("iron=core site"))},
		},
		"ironcore, current": { // media types without a version
			manifestOf(t, "", store.add("application/vnd.ironcore.image.config+json", []byte(`{"commandLine":"iron=new"}`), nil), nil,
				store.add("application/vnd.ironcore.image.squashfs", []byte("squash"), nil),
				store.add("application/vnd.ironcore.image.initramfs", initrd, nil),
				store.add("application/vnd.ironcore.image.kernel", kernel, nil),
				store.add("application/vnd.ironcore.image.iso", []byte("iso"), nil),
				store.add("application/vnd.ironcore.image.uki", testUKI(t), nil)),
			map[string]string{"kernel": string(kernel), "initrd": "initrd", "cmdline": "iron=new site"},
			event.KindLinux,
			[]event.Artifact{art("kernel", kernel), art("initrd", initrd), art("cmdline", []byte("iron=new site"))},
		},
		"ironcore, UKI alone": {
			manifestOf(t, "", store.add("application/vnd.ironcore.image.config+json", []byte(`{}`), nil), nil,
				store.add("application/vnd.ironcore.image.uki", testUKI(t), nil)),
			map[string]string{"kernel": string(kernel), "initrd": "uki initrd", "cmdline": "from=uki site"},
			event.KindUKI,
			[]event.Artifact{art("uki", testUKI(t)), art("cmdline", []byte("from=uki site"))},
		},
		"eci": {
			manifestOf(t, "", empty, nil, store.add("application/vnd.lfedge.eci.kernel.layer.v1+kernel", kernel, nil),
				store.add("application/octet-stream", initrd, map[string]string{eciRole: "initrd"})),
			map[string]string{"kernel": string(kernel), "initrd": "initrd", "cmdline": "site"},
			event.KindLinux,
			[]event.Artifact{art("kernel", kernel), art("initrd", initrd), art("cmdline", []byte("site"))},
		},
		"uki": {
			manifestOf(t, ArtifactUKI, empty, nil, store.add(MediaTypeUKI, testUKI(t), nil)),
			map[string]string{"kernel": string(kernel), "initrd": "uki initrd", "cmdline": "from=uki site"},
			event.KindUKI,
			[]event.Artifact{art("uki", testUKI(t)), art("cmdline", []byte("from=uki site"))},
		},
	}
	for name, tc := range tests {
		t.Run(name, func(t *testing.T) {
			i, err := FromManifest(context.Background(), tc.manifest, store, Options{Cmdline: "site", MemAvailable: plenty})
			if err != nil {
				t.Fatal(err)
			}
			defer i.Close()
			if diff := cmp.Diff(tc.want, contents(t, i)); diff != "" {
				t.Error(diff)
			}
			if diff := cmp.Diff(event.Descriptor{Kind: tc.kind, Artifacts: tc.artifact}, i.Descriptor); diff != "" {
				t.Error(diff)
			}
			if want, err := kexec.Needs(i.Kernel, i.Initrd); err != nil || i.NeedsRAM != want {
				t.Errorf("NeedsRAM = %d, want %d (%v)", i.NeedsRAM, want, err)
			}
		})
	}
}

// TestDeviceTree checks that a device tree is measured, and that a machine which
// would boot with another one refuses the image before that.
func TestDeviceTree(t *testing.T) {
	store := blobs{}
	empty := store.add(ocispec.MediaTypeEmptyJSON, []byte("{}"), nil)
	m := manifestOf(t, "", empty, nil, store.add(MediaTypeKernel, testKernel(), nil), store.add(MediaTypeDTB, []byte("dtb"), nil))
	opts := Options{MemAvailable: plenty, DeviceTree: func() bool { return false }}
	i, err := FromManifest(context.Background(), m, store, opts)
	if err != nil {
		t.Fatal(err)
	}
	defer i.Close()
	if n := len(i.Descriptor.Artifacts); n != 3 || len(i.Notes) != 1 || !strings.Contains(i.Notes[0], "device tree is not used") {
		t.Errorf("%d artifacts, notes %q", n, i.Notes)
	}
	opts.DeviceTree = func() bool { return true }
	_, err = FromManifest(context.Background(), m, store, opts)
	wantRefused(t, "a machine with a tree of its own", err, ErrUnsupported, "give the tree to the platform firmware")
	opts.DryRun = true
	other, err := FromManifest(context.Background(), m, store, opts)
	if err != nil {
		t.Fatalf("about another machine: %v", err)
	}
	defer other.Close()
}

// TestPlatformHint looks at a kernel of another architecture than all that boot here.
func TestPlatformHint(t *testing.T) {
	store := blobs{}
	empty := store.add(ocispec.MediaTypeEmptyJSON, []byte("{}"), nil)
	kernel := []byte(strings.Repeat("\x00", 0x38) + "RSC\x05" + "rest")
	m := manifestOf(t, "", empty, nil, store.add(MediaTypeKernel, kernel, nil))
	opts := Options{MemAvailable: plenty, DryRun: true}
	_, err := FromManifest(context.Background(), m, store, opts)
	wantRefused(t, "predicted without its platform", err, ErrInvalid, "name the platform of the machines that it is for")
	opts.Arch = "riscv64"
	i, err := FromManifest(context.Background(), m, store, opts)
	if err != nil {
		t.Fatalf("predicted with it: %v", err)
	}
	defer i.Close()
}

func TestContainer(t *testing.T) {
	kernel := testKernel()
	other := append(testKernel(), "other"...)
	const place = "usr/lib/modules/6.1/vmlinuz"
	tests := map[string]struct {
		layers []map[string][]byte
		labels map[string]string
		kernel []byte // as measured
		boots  []byte
		line   string
		want   error
	}{
		"modules":        {layers: []map[string][]byte{{place: other}, {place: kernel}}, kernel: kernel, line: "site"},
		"boot":           {layers: []map[string][]byte{{"boot/vmlinuz-6.1": kernel, "boot/config": other}}, kernel: kernel, line: "site"},
		"modules first":  {layers: []map[string][]byte{{place: kernel, "boot/vmlinuz-6.1": other}}, kernel: kernel, line: "site"},
		"several":        {layers: []map[string][]byte{{place: kernel, "usr/lib/modules/6.2/vmlinuz": other}}, want: ErrInvalid},
		"several, label": {layers: []map[string][]byte{{place: kernel, "usr/lib/modules/6.2/vmlinuz": other}}, labels: map[string]string{LabelKernel: place}, kernel: kernel, line: "site"},
		"label to none":  {layers: []map[string][]byte{{place: kernel}}, labels: map[string]string{LabelKernel: "boot/none"}, want: ErrInvalid},
		"none":           {layers: []map[string][]byte{{"etc/os-release": nil}}, want: ErrUnsupported},
		"command line":   {layers: []map[string][]byte{{place: kernel}}, labels: map[string]string{AnnotationCmdline: "a=b"}, kernel: kernel, line: "a=b site"},
		"uki":            {layers: []map[string][]byte{{"usr/lib/modules/6.1/6.1.efi": testUKI(t)}}, kernel: testUKI(t), boots: kernel, line: "from=uki site"},
		"line too long":  {layers: []map[string][]byte{{place: kernel}}, labels: map[string]string{AnnotationCmdline: strings.Repeat("x", 100)}, want: ErrInvalid},
		"control chars":  {layers: []map[string][]byte{{place: kernel}}, labels: map[string]string{AnnotationCmdline: "a\tb"}, want: ErrInvalid},
	}
	for name, tc := range tests {
		t.Run(name, func(t *testing.T) {
			store := blobs{}
			config, err := json.Marshal(ocispec.Image{Config: ocispec.ImageConfig{Labels: tc.labels}})
			if err != nil {
				t.Fatal(err)
			}
			var layers []ocispec.Descriptor
			want := []event.Artifact{art("kernel", tc.kernel), art("cmdline", []byte(tc.line))}
			for _, files := range tc.layers {
				b := tarOf(t, files)
				layers = append(layers, store.add(ocispec.MediaTypeImageLayer, b, nil))
				want = append(want, art("layer", b))
			}
			m := manifestOf(t, "", store.add(ocispec.MediaTypeImageConfig, config, nil), nil, layers...)
			i, err := FromManifest(context.Background(), m, store, Options{Cmdline: "site", Arch: "amd64", MemAvailable: plenty})
			if !errors.Is(err, tc.want) {
				t.Fatalf("got %v, want %v", err, tc.want)
			}
			if err != nil {
				return
			}
			defer i.Close()
			if diff := cmp.Diff(event.Descriptor{Kind: event.KindContainer, Artifacts: want}, i.Descriptor); diff != "" {
				t.Error(diff)
			}
			got := contents(t, i)
			if tc.boots == nil {
				tc.boots = tc.kernel
			}
			if got["kernel"] != string(tc.boots) || got["cmdline"] != tc.line || !strings.HasPrefix(got["initrd"], "070701") {
				t.Errorf("boots another kernel, or with %q", got["cmdline"])
			}
		})
	}
}

func TestMemory(t *testing.T) {
	store := blobs{}
	config := store.add(ocispec.MediaTypeImageConfig, []byte("{}"), nil)
	large := append(testKernel(), make([]byte, 8<<20)...)
	layer := store.add(ocispec.MediaTypeImageLayer, tarOf(t, map[string][]byte{"boot/vmlinuz-1": large}), nil)
	m := manifestOf(t, "", config, nil, layer)
	got, err := Estimate(m)
	if want := (Needs{Fetch: layer.Size, RAM: 2 * layer.Size}); err != nil || got != want {
		t.Errorf("Estimate = %+v, %v; want %+v", got, err, want)
	}
	if got, err = Estimate(manifestOf(t, "", config, map[string]string{AnnotationUnpacked: "100000000"}, layer)); err != nil || got.RAM != 200000000 {
		t.Errorf("Estimate with annotation = %+v, %v", got, err)
	}
	if _, err = Estimate(manifestOf(t, "", config, map[string]string{AnnotationUnpacked: "-1"}, layer)); !errors.Is(err, ErrInvalid) {
		t.Errorf("Estimate with a bad annotation: %v", err)
	}
	disk := Needs{Fetch: 300, Disk: 5000, RAM: streamMemory + 100*3 + 200*2}
	if got, err = Estimate(manifestOf(t, ArtifactDisk, config, nil,
		ocispec.Descriptor{MediaType: MediaTypeRaw + "+zstd", Digest: layer.Digest, Size: 5000},
		ocispec.Descriptor{MediaType: MediaTypeKernel, Digest: layer.Digest, Size: 100},
		ocispec.Descriptor{MediaType: MediaTypeInitrd, Digest: layer.Digest, Size: 200})); err != nil || got != disk {
		t.Errorf("Estimate of a disk image = %+v, %v; want %+v", got, err, disk)
	}
	var z bytes.Buffer // whose size says nothing
	w := gzip.NewWriter(&z)
	if _, err := w.Write(tarOf(t, map[string][]byte{"boot/vmlinuz-1": large})); err != nil || w.Close() != nil {
		t.Fatal(err)
	}
	packed := manifestOf(t, "", config, nil, store.add(ocispec.MediaTypeImageLayerGzip, z.Bytes(), nil))
	for _, tc := range []struct {
		manifest []byte
		have     int64
		want     string
	}{
		{m, 1 << 20, "the image needs"},
		{m, layer.Size - 1, "the image needs"},
		{m, layer.Size, "a root in RAM can use half"},
		{m, 2*layer.Size + 1<<10, "loading the image needs"},
		{packed, 1 << 20, "a root in RAM can use half"},
	} {
		_, err := FromManifest(context.Background(), tc.manifest, store, Options{Arch: "amd64", MemAvailable: memory(tc.have)})
		if !errors.Is(err, meminfo.ErrShort) || !strings.Contains(err.Error(), tc.want) || !strings.Contains(err.Error(), "MiB") {
			t.Errorf("with %d bytes: %v, want %v with %q", tc.have, err, meminfo.ErrShort, tc.want)
		}
	}
	linux := manifestOf(t, "", config, nil, store.add(MediaTypeKernel, testKernel(), nil))
	needs, err := FromManifest(context.Background(), linux, store, Options{MemAvailable: plenty})
	if err != nil {
		t.Fatal(err)
	}
	defer needs.Close()
	for less, want := range map[int64]error{0: nil, 1: meminfo.ErrShort} {
		i, err := FromManifest(context.Background(), linux, store, Options{MemAvailable: memory(needs.NeedsRAM - less)})
		if !errors.Is(err, want) {
			t.Errorf("with %d bytes less than it needs: %v, want %v", less, err, want)
		}
		if err == nil {
			i.Close()
		}
	}
}

// FuzzEstimate checks that sizes neither overflow nor lose a blob, and that
// only manifests which can be estimated are looked at further.
func FuzzEstimate(f *testing.F) {
	const blob = `{"mediaType":"%s","digest":"sha256:` + "%064d" + `","size":%d}`
	config := fmt.Sprintf(blob, ocispec.MediaTypeImageConfig, 1, 2)
	for _, mediaType := range []string{ocispec.MediaTypeImageLayerGzip, MediaTypeKernel, MediaTypeRaw} {
		f.Add([]byte(fmt.Sprintf(`{"schemaVersion":2,"config":%s,"layers":[%s]}`, config, fmt.Sprintf(blob, mediaType, 2, 3))))
	}
	f.Fuzz(func(t *testing.T, manifest []byte) {
		n, err := Estimate(manifest)
		if err != nil {
			if i, err := FromManifest(context.Background(), manifest, blobs{}, Options{MemAvailable: plenty}); err == nil {
				t.Fatalf("an image of kind %s without an estimate", i.Kind)
			}
			return
		}
		m, err := parseManifest(manifest)
		if err != nil {
			t.Fatal(err)
		}
		var sum, disk int64
		for _, l := range m.Layers {
			sum += l.Size
			if !isContainer(m) && streamed(l) {
				disk += l.Size
			}
		}
		if n.Fetch != sum-disk || n.Disk < disk || n.Disk > sum || n.RAM < n.Fetch {
			t.Fatalf("%+v for %d bytes of layers", n, sum)
		}
	})
}

package ocipush_test

import (
	"bytes"
	"compress/gzip"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/sha256"
	"crypto/x509"
	"encoding/hex"
	"encoding/json"
	"encoding/pem"
	"errors"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"testing"

	"cuelabs.dev/go/oci/ociregistry/ocimem"
	"cuelabs.dev/go/oci/ociregistry/ociserver"
	"github.com/google/go-cmp/cmp"
	"github.com/klauspost/compress/zstd"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
	"github.com/ulikunitz/xz"
	"golang.org/x/crypto/nacl/secretbox"
	"golang.org/x/crypto/scrypt"
	"oras.land/oras-go/v2/content"

	"github.com/sealboot/sealboot/boot/boottest/ukitest"
	"github.com/sealboot/sealboot/boot/image/osimage"
	"github.com/sealboot/sealboot/boot/image/uki"
	"github.com/sealboot/sealboot/boot/publish/ocipush"
	"github.com/sealboot/sealboot/boot/source/cosign"
	"github.com/sealboot/sealboot/boot/source/media"
	"github.com/sealboot/sealboot/boot/source/oci"
)

var plain = oci.Connection{PlainHTTP: true}

// registry starts a registry and returns its address.
func registry(t *testing.T) string {
	t.Helper()
	s := httptest.NewServer(ociserver.New(ocimem.New(), nil))
	t.Cleanup(s.Close)
	return strings.TrimPrefix(s.URL, "http://")
}

// simpleRegistry starts a registry as Debian's docker-registry is: it keeps no list of referrers and deletes nothing.
func simpleRegistry(t *testing.T) string {
	t.Helper()
	registry := ociserver.New(ocimem.New(), &ociserver.Options{DisableReferrersAPI: true})
	s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.Method == http.MethodDelete {
			w.WriteHeader(http.StatusMethodNotAllowed)
			return
		}
		registry.ServeHTTP(withoutSubject{w}, r)
	}))
	t.Cleanup(s.Close)
	return strings.TrimPrefix(s.URL, "http://")
}

// withoutSubject does not say that the registry has understood what a manifest refers to.
type withoutSubject struct{ http.ResponseWriter }

func (w withoutSubject) WriteHeader(code int) {
	w.Header().Del("OCI-Subject")
	w.ResponseWriter.WriteHeader(code)
}

func write(t *testing.T, name string, b []byte) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), name)
	if err := os.WriteFile(path, b, 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}

func target(t *testing.T, where string) *ocipush.Target {
	t.Helper()
	loc, err := ocipush.ParseLocation(where)
	if err != nil {
		t.Fatal(err)
	}
	dst, err := loc.Target(t.Context(), plain)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := dst.Close(); err != nil {
			t.Error(err)
		}
	})
	return dst
}

func source(t *testing.T, where string) *ocipush.Source {
	t.Helper()
	loc, err := ocipush.ParseLocation(where)
	if err != nil {
		t.Fatal(err)
	}
	src, err := loc.Source(t.Context(), plain)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := src.Close(); err != nil {
			t.Error(err)
		}
	})
	return src
}

func newKey(t *testing.T) (der []byte, public cosign.Key) {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	if der, err = x509.MarshalPKCS8PrivateKey(key); err != nil {
		t.Fatal(err)
	}
	pkix, err := x509.MarshalPKIXPublicKey(key.Public())
	if err != nil {
		t.Fatal(err)
	}
	if public, err = cosign.ParseKey(pkix); err != nil {
		t.Fatal(err)
	}
	return der, public
}

// published is an artifact, signed by two keys in both forms, with reference values.
func published(t *testing.T, dst *ocipush.Target) (ocispec.Descriptor, []cosign.Key) {
	t.Helper()
	ctx := t.Context()
	cmdline := "console=ttyS0"
	a := ocipush.Artifact{Kernel: write(t, "vmlinuz", []byte(ukitest.BzImage("kernel"))), Initrd: write(t, "initrd", bytes.Repeat([]byte("i"), 3<<20)), Cmdline: &cmdline}
	desc, err := a.Push(ctx, dst)
	if err != nil {
		t.Fatal(err)
	}
	if err := dst.Tag(ctx, desc, "v1"); err != nil {
		t.Fatal(err)
	}
	if _, err := ocipush.AttachReferenceValues(ctx, dst, desc, write(t, "values.json", []byte(`{"pcrs":{}}`))); err != nil {
		t.Fatal(err)
	}
	var keys []cosign.Key
	for range 2 {
		der, public := newKey(t)
		s, err := ocipush.ParseSigner(pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: der}), nil)
		if err != nil {
			t.Fatal(err)
		}
		if err := s.SignClassic(ctx, dst, desc, "os"); err != nil {
			t.Fatal(err)
		}
		if err := s.SignBundle(ctx, dst, desc, "os"); err != nil {
			t.Fatal(err)
		}
		keys = append(keys, public)
	}
	if err := dst.Finish(); err != nil {
		t.Fatal(err)
	}
	return desc, keys
}

// checkBoots opens the image as the loader does and reads all of it.
func checkBoots(t *testing.T, place oci.Place, desc ocispec.Descriptor, keys []cosign.Key) {
	t.Helper()
	src, err := oci.New(oci.Options{Places: []oci.Place{place}, Rounds: 1, Admit: cosign.Policy{Keys: keys, Identity: "os"}.Admit})
	if err != nil {
		t.Fatal(err)
	}
	defer src.Close()
	img, err := src.Open(t.Context())
	if err != nil {
		t.Fatalf("%s: %v", place, err)
	}
	defer img.Close()
	if img.Descriptor.Digest != desc.Digest || len(img.Keys) != len(keys) {
		t.Errorf("%s: %s admitted by %d keys, want %s by %d", place, img.Descriptor.Digest, len(img.Keys), desc.Digest, len(keys))
	}
	for _, d := range img.Contents() {
		f, err := img.Blob(t.Context(), d)
		if err != nil {
			t.Fatal(err)
		}
		if b, err := io.ReadAll(f); err != nil || int64(len(b)) != d.Size {
			t.Errorf("blob %s: %d bytes, %v", d.Digest, len(b), err)
		}
		_ = f.Close()
	}
	n := 0
	for _, err := range place.Referrers(t.Context(), desc, ocipush.ReferenceValuesType) {
		if n++; err != nil {
			t.Errorf("%s: %v", place, err)
		}
	}
	if n != 1 {
		t.Errorf("%s: %d reference values", place, n)
	}
}

func remote(t *testing.T, ref string) *oci.Remote {
	t.Helper()
	r, err := oci.NewRemote(ref, plain)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(r.Close)
	return r
}

func layout(t *testing.T, dir, ref string) *media.Layout {
	t.Helper()
	ls, err := media.Open(t.Context(), dir, ref)
	if err != nil {
		t.Fatal(err)
	}
	if len(ls) != 1 {
		t.Fatalf("%d layouts in %s", len(ls), dir)
	}
	t.Cleanup(func() { _ = ls[0].Close() })
	return ls[0]
}

// TestEverywhere publishes to a registry and copies from place to place;
// what arrives last is still the same signed image with everything attached.
func TestEverywhere(t *testing.T) {
	t.Run("registry", func(t *testing.T) { everywhere(t, registry(t)) })
	t.Run("simple registry", func(t *testing.T) { everywhere(t, simpleRegistry(t)) })
}

func everywhere(t *testing.T, addr string) {
	dir := t.TempDir()
	stops := []string{
		addr + "/os/test:v1",
		"oci:" + filepath.Join(dir, "a", "layout") + ":v1",
		"oci-archive:" + filepath.Join(dir, "b", "layout.tar") + ":v1",
		addr + "/os/copy:v1",
	}
	for _, d := range []string{"a", "b"} {
		if err := os.Mkdir(filepath.Join(dir, d), 0o700); err != nil {
			t.Fatal(err)
		}
	}
	desc, keys := published(t, target(t, stops[0]))
	for i := range stops[1:] {
		dst := target(t, stops[i+1])
		got, err := ocipush.Copy(t.Context(), source(t, stops[i]), dst, ocipush.CopyOptions{})
		if err != nil {
			t.Fatal(err)
		}
		if err := dst.Finish(); err != nil {
			t.Fatal(err)
		}
		if got.Digest != desc.Digest {
			t.Errorf("copied %s, want %s", got.Digest, desc.Digest)
		}
	}
	for _, place := range []oci.Place{
		remote(t, stops[0]), layout(t, filepath.Join(dir, "a"), "v1"), layout(t, filepath.Join(dir, "b"), ""), remote(t, stops[3]),
	} {
		checkBoots(t, place, desc, keys)
	}
}

// TestRelative has the locations relative to the working directory.
func TestRelative(t *testing.T) {
	t.Chdir(t.TempDir())
	dst := target(t, "oci-archive:os.tar:v1")
	desc, keys := published(t, dst)
	if _, err := ocipush.Copy(t.Context(), source(t, "oci-archive:os.tar:v1"), target(t, "oci:layout:v1"), ocipush.CopyOptions{}); err != nil {
		t.Fatal(err)
	}
	if err := os.Remove("os.tar"); err != nil {
		t.Fatal(err)
	}
	checkBoots(t, layout(t, ".", "v1"), desc, keys)
}

// TestReproducible: the same files give the same image.
func TestReproducible(t *testing.T) {
	a := ocipush.Artifact{UKI: write(t, "os.efi", ukitest.UKI(t, uki.Content{Name: ".linux", Data: []byte(ukitest.BzImage("kernel"))})), Annotations: map[string]string{"a": "1", "b": "2"}}
	first, err := a.Push(t.Context(), target(t, registry(t)+"/a"))
	if err != nil {
		t.Fatal(err)
	}
	second, err := a.Push(t.Context(), target(t, "oci:"+t.TempDir()))
	if err != nil {
		t.Fatal(err)
	}
	if first.Digest != second.Digest {
		t.Errorf("digests %s and %s", first.Digest, second.Digest)
	}
}

func TestArtifactRefuses(t *testing.T) {
	kernel := write(t, "k", []byte("kernel"))
	for name, a := range map[string]ocipush.Artifact{
		"nothing":            {},
		"initrd alone":       {Initrd: kernel},
		"UKI and kernel":     {UKI: kernel, Kernel: kernel},
		"missing file":       {Kernel: kernel + "x"},
		"disk that is tiny":  {Disk: write(t, "d", []byte("x"))},
		"disk cut short":     {Disk: write(t, "d", []byte("\x1f\x8b\x08\x00\x00\x00\x00\x00"))},
		"no kernel":          {Kernel: kernel},
		"no UKI":             {UKI: kernel},
		"UKI without .linux": {UKI: write(t, "empty.efi", ukitest.UKI(t, uki.Content{Name: ".initrd", Data: []byte("x")}))},
		"root of no disk":    {Kernel: kernel, Verity: strings.Repeat("ab", 32)},
	} {
		if _, err := a.Push(t.Context(), target(t, "oci:"+t.TempDir())); err == nil {
			t.Errorf("%s: no error", name)
		}
	}
}

// TestDisk tells the format of a disk and describes its raw content.
func TestDisk(t *testing.T) {
	raw := bytes.Repeat([]byte("sector. "), 64<<10)
	sum := sha256.Sum256(raw)
	root := strings.Repeat("ab", 32)
	const base = "application/vnd.sealboot.disk.v1."
	for want, disk := range map[string]string{
		base + "raw":      write(t, "disk", raw),
		base + "raw+gzip": write(t, "gz", packed(t, raw, func(w io.Writer) (io.WriteCloser, error) { return gzip.NewWriter(w), nil })),
		base + "raw+zstd": write(t, "zst", packed(t, raw, func(w io.Writer) (io.WriteCloser, error) { return zstd.NewWriter(w) })),
		base + "raw+xz":   write(t, "xz", packed(t, raw, func(w io.Writer) (io.WriteCloser, error) { return xz.NewWriter(w) })),
		base + "qcow2":    qcow2(t, raw),
	} {
		if disk == "" {
			continue
		}
		dst := target(t, "oci:"+t.TempDir())
		desc, err := ocipush.Artifact{Disk: disk, Verity: root}.Push(t.Context(), dst)
		if err != nil {
			t.Fatalf("%s: %v", want, err)
		}
		manifest, err := content.FetchAll(t.Context(), dst, desc)
		if err != nil {
			t.Fatal(err)
		}
		m, err := oci.ParseManifest(desc.MediaType, manifest)
		if err != nil || m.Layers[0].MediaType != want {
			t.Fatalf("media type %v, want %s; %v", m.Layers, want, err)
		}
		about := map[string]string{
			ocispec.AnnotationTitle:     filepath.Base(disk),
			osimage.AnnotationRawSHA256: hex.EncodeToString(sum[:]),
			osimage.AnnotationRawSize:   strconv.Itoa(len(raw)),
			osimage.AnnotationVerity:    root,
		}
		if diff := cmp.Diff(about, m.Layers[0].Annotations); diff != "" {
			t.Errorf("%s: %s", want, diff)
		}
	}
}

func packed(t *testing.T, raw []byte, pack func(io.Writer) (io.WriteCloser, error)) []byte {
	t.Helper()
	var b bytes.Buffer
	w, err := pack(&b)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := w.Write(raw); err != nil {
		t.Fatal(err)
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	return b.Bytes()
}

// qcow2 converts a disk, where qemu-img is installed.
func qcow2(t *testing.T, raw []byte) string {
	t.Helper()
	to := filepath.Join(t.TempDir(), "qcow2")
	out, err := exec.Command("qemu-img", "convert", "-c", "-f", "raw", "-O", "qcow2", write(t, "raw", raw), to).CombinedOutput()
	if errors.Is(err, exec.ErrNotFound) {
		t.Log("not tested: qcow2: no qemu-img")
		return ""
	}
	if err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	return to
}

// encrypt puts a key into the form of cosign's private keys.
func encrypt(t *testing.T, der []byte, password string) []byte {
	t.Helper()
	salt, nonce := make([]byte, 32), new([24]byte)
	_, _ = rand.Read(salt)
	_, _ = rand.Read(nonce[:])
	raw, err := scrypt.Key([]byte(password), salt, 32768, 8, 1, 32)
	if err != nil {
		t.Fatal(err)
	}
	b, err := json.Marshal(map[string]any{
		"kdf":        map[string]any{"name": "scrypt", "params": map[string]int{"N": 32768, "r": 8, "p": 1}, "salt": salt},
		"cipher":     map[string]any{"name": "nacl/secretbox", "nonce": nonce[:]},
		"ciphertext": secretbox.Seal(nil, der, nonce, (*[32]byte)(raw)),
	})
	if err != nil {
		t.Fatal(err)
	}
	return pem.EncodeToMemory(&pem.Block{Type: "ENCRYPTED COSIGN PRIVATE KEY", Bytes: b})
}

func TestParseSigner(t *testing.T) {
	der, public := newKey(t)
	enc := encrypt(t, der, "secret")
	s, err := ocipush.ParseSigner(enc, []byte("secret"))
	if err != nil || s.KeyID() != public.ID() {
		t.Errorf("encrypted key: %v", err)
	}
	if _, err := ocipush.ParseSigner(enc, []byte("wrong")); err == nil {
		t.Error("a wrong password opened the key")
	}
	if _, err := ocipush.ParseSigner([]byte("no PEM"), nil); err == nil {
		t.Error("a key that is no PEM was read")
	}
}

// TestSkopeo has skopeo carry an image of ours; its digest stays, and it boots.
func TestSkopeo(t *testing.T) {
	skopeo, err := exec.LookPath("skopeo")
	if err != nil {
		if os.Getenv("SEALBOOT_TEST_ALL") == "1" {
			t.Fatal(err)
		}
		t.Skip(err)
	}
	dir, addr := t.TempDir(), registry(t)
	from := target(t, "oci:"+filepath.Join(dir, "layout")+":v1")
	desc, keys := published(t, from)
	policy := filepath.Join(dir, "policy.json")
	if err := os.WriteFile(policy, []byte(`{"default":[{"type":"insecureAcceptAnything"}]}`), 0o600); err != nil {
		t.Fatal(err)
	}
	where := addr + "/os/skopeo:v1"
	cmd := exec.CommandContext(t.Context(), skopeo, "--policy", policy, "copy", "--dest-tls-verify=false",
		"oci:"+filepath.Join(dir, "layout")+":v1", "docker://"+where)
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	// It leaves behind what refers to the image; we bring that.
	if _, err := ocipush.Copy(t.Context(), source(t, "oci:"+filepath.Join(dir, "layout")+":v1"), target(t, where), ocipush.CopyOptions{}); err != nil {
		t.Fatal(err)
	}
	checkBoots(t, remote(t, where), desc, keys)
}

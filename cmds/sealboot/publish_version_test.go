package main

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"encoding/json"
	"encoding/pem"
	"fmt"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"cuelabs.dev/go/oci/ociregistry/ocimem"
	"cuelabs.dev/go/oci/ociregistry/ociserver"
	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/sealboot/sealboot/attest/policy"
	"github.com/sealboot/sealboot/boot/boottest/ukitest"
	"github.com/sealboot/sealboot/boot/image/osimage"
	"github.com/sealboot/sealboot/boot/source/cosign"
	"github.com/sealboot/sealboot/boot/source/oci"
	"github.com/sealboot/sealboot/cmds/internal/cli"
)

// A shop is where an operator publishes: a registry, a site, a kernel and a key.
type shop struct {
	t                      *testing.T
	addr, dir, site        string
	kernel, key, publicKey string
	public                 cosign.Key
}

func newShop(t *testing.T) *shop {
	t.Helper()
	s := httptest.NewServer(ociserver.New(ocimem.New(), nil))
	t.Cleanup(s.Close)
	w := &shop{t: t, addr: strings.TrimPrefix(s.URL, "http://"), dir: t.TempDir()}
	w.kernel = w.write("vmlinuz", []byte(ukitest.BzImage("kernel")))
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	private, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		t.Fatal(err)
	}
	public, err := x509.MarshalPKIXPublicKey(key.Public())
	if err != nil {
		t.Fatal(err)
	}
	if w.public, err = cosign.ParseKey(public); err != nil {
		t.Fatal(err)
	}
	w.key = w.write("release.key", pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: private}))
	must(t, "site", "init", "--dir", filepath.Join(w.dir, "site"), "--name", "shop", "--url", "https://attestd.example", "--ek-hash-only")
	w.site = w.write("site.json", []byte(must(t, "site", "config", "--dir", filepath.Join(w.dir, "site"), "--oci", w.addr+"/os:1", "--plain-http")))
	w.publicKey = w.keyed(public)
	return w
}

func (w *shop) write(name string, content []byte) string {
	w.t.Helper()
	path := filepath.Join(w.dir, name)
	if err := os.WriteFile(path, content, 0o600); err != nil {
		w.t.Fatal(err)
	}
	return path
}

// keyed is a site config whose source pins the key.
func (w *shop) keyed(public []byte) string {
	w.t.Helper()
	raw, err := os.ReadFile(w.site)
	if err != nil {
		w.t.Fatal(err)
	}
	var site map[string]any
	if err := json.Unmarshal(raw, &site); err != nil {
		w.t.Fatal(err)
	}
	source := site["sources"].([]any)[0].(map[string]any)
	source["keys"], source["threshold"] = [][]byte{public}, 1
	if raw, err = json.Marshal(site); err != nil {
		w.t.Fatal(err)
	}
	return w.write("keyed.json", raw)
}

// found is the image under a tag for a platform.
func (w *shop) found(ref, platform string) *oci.Resolved {
	w.t.Helper()
	r := w.remote(ref)
	p := ocispec.Platform{OS: "linux", Architecture: platform}
	res, err := oci.Resolve(w.t.Context(), r, r.Reference(), p)
	if err != nil {
		w.t.Fatal(err)
	}
	return res
}

func (w *shop) remote(ref string) *oci.Remote {
	w.t.Helper()
	r, err := oci.NewRemote(w.addr+"/"+ref, oci.Connection{PlainHTTP: true})
	if err != nil {
		w.t.Fatal(err)
	}
	w.t.Cleanup(r.Close)
	return r
}

func (w *shop) version(ref string) uint64 {
	w.t.Helper()
	v, err := osimage.Version(w.found(ref, "amd64").Manifest)
	if err != nil {
		w.t.Fatal(err)
	}
	return v
}

// refused wants a command line to fail and to say something.
func (w *shop) refused(says string, args ...string) {
	w.t.Helper()
	code, _, diag := sealboot(args...)
	if code != cli.Failed || !strings.Contains(diag, says) {
		w.t.Errorf("sealboot %s: exit code %d; want %q in:\n%s", strings.Join(args, " "), code, says, diag)
	}
}

// TestPublishVersion: an image's annotation, its reference values and what is
// predicted agree on the version, or nothing is published or predicted.
func TestPublishVersion(t *testing.T) {
	w := newShop(t)
	publish := func(ref string, args ...string) []string {
		return append([]string{"publish", w.addr + "/" + ref, "--plain-http", "--kernel", w.kernel}, args...)
	}
	predict := func(ref string, args ...string) []string {
		return append([]string{"predict", "image", "--site", w.site, "--name", "os", "--plain-http", w.addr + "/" + ref}, args...)
	}
	digest := strings.TrimSpace(must(t, publish("os:1", "--image-version", "3")...))
	if v := w.version("os:1"); v != 3 {
		t.Errorf("version %d was published", v)
	}
	w.refused("want 1 to", publish("os:2", "--image-version", "0")...)
	w.refused("want 1 to", publish("os:2", "--image-version", "281474976710656")...)
	w.refused("no new machine boots", publish("os:2", "--image-version", "70368744177665")...) // 2^46+1
	w.refused("no new machine boots", publish("os:2", "--annotation", osimage.AnnotationVersion+"=70368744177665")...)
	w.refused("decimal number", publish("os:2", "--annotation", osimage.AnnotationVersion+"=two")...)
	w.refused("says 2", publish("os:2", "--annotation", osimage.AnnotationVersion+"=2", "--image-version", "3")...)

	// The prediction has the version that was published.
	values := func(args []string) *policy.Image {
		t.Helper()
		raw := w.write("values.json", nil)
		must(t, append(args, "-o", raw)...)
		text, err := os.ReadFile(raw)
		if err != nil {
			t.Fatal(err)
		}
		doc, err := policy.Parse(text)
		if err != nil {
			t.Fatal(err)
		}
		return doc.(*policy.Image)
	}
	w.refused("confirm it with --image-version 3", predict("os:1")...)
	w.refused("published as version 3", predict("os:1", "--image-version", "4")...)
	w.refused("published as version 3", predict("os@"+digest, "--image-version", "4")...)
	for _, args := range [][]string{predict("os:1", "--image-version", "3"), predict("os@" + digest)} {
		if v := values(args).ImageVersion; v != 3 {
			t.Errorf("%q: predicted version %d", args, v)
		}
	}
	reference := filepath.Join(w.dir, "values.json")
	w.refused("of version 3", publish("os:2", "--image-version", "4", "--reference-values", reference)...)
	w.refused("says 4", publish("os:2", "--annotation", osimage.AnnotationVersion+"=4", "--reference-values", reference)...)
	w.refused("--reference-values", publish("os:2", "--reference-values", w.kernel)...)
	must(t, publish("os:4", "--reference-values", reference)...)
	if v := w.version("os:4"); v != 3 {
		t.Errorf("version %d was published with reference values of version 3", v)
	}
	signed := filepath.Join(w.dir, "signed.json")
	must(t, "policy", "sign", "--key", w.key, reference, "-o", signed)
	w.refused("of version 3", publish("os:2", "--image-version", "4", "--reference-values", signed)...)
	must(t, publish("os:5", "--image-version", "3", "--reference-values", signed)...)

	// An image without a version can have one in its reference only where no
	// loader would compare the two.
	must(t, publish("old:1")...)
	if v := values(predict("old:1", "--image-version", "7")).ImageVersion; v != 7 {
		t.Errorf("predicted version %d", v)
	}
	w.refused("published without a version", append(predict("old:1", "--image-version", "7"), "--site", w.publicKey)...)
	if v := values(predict("old:1")).ImageVersion; v != 0 {
		t.Errorf("predicted version %d", v)
	}
	w.refused("are of version 0", publish("os:6", "--image-version", "3", "--reference-values", reference)...)
}

// TestPublishMultiPlatform publishes a container image for two platforms: each has
// the version and is signed by itself, as a loader asks for it.
func TestPublishMultiPlatform(t *testing.T) {
	w := newShop(t)
	layout := multiPlatform(t)
	must(t, "publish", w.addr+"/os:1", "--plain-http", "--container", "oci:"+layout+":v1", "--image-version", "5", "--sign", w.key)
	for _, arch := range []string{"amd64", "arm64"} {
		res := w.found("os:1", arch)
		if v, err := osimage.Version(res.Manifest); v != 5 || err != nil {
			t.Errorf("%s: version %d, %v", arch, v, err)
		}
		p := cosign.Policy{Keys: []cosign.Key{w.public}}
		if keys, err := p.Admit(t.Context(), w.remote("os:1"), res.Descriptor); err != nil {
			t.Errorf("%s: %q, %v", arch, keys, err)
		}
	}
	w.refused("it has version 5 already", "publish", w.addr+"/os:2", "--plain-http", "--container", w.addr+"/os:1", "--image-version", "6")
	must(t, "publish", "oci:"+filepath.Join(w.dir, "copy")+":v1", "--plain-http", "--container", w.addr+"/os:1", "--image-version", "5")
}

// multiPlatform is a layout with an index of two container images and an
// attestation of their builder.
func multiPlatform(t *testing.T) string {
	t.Helper()
	dir := t.TempDir()
	l := layoutWriter{t, dir}
	var list []ocispec.Descriptor
	for _, arch := range []string{"amd64", "arm64", "unknown"} {
		layer := l.blob(ocispec.MediaTypeImageLayer, make([]byte, 1024)) // an empty archive
		config := l.json(ocispec.MediaTypeImageConfig, ocispec.Image{Platform: ocispec.Platform{OS: "linux", Architecture: arch}})
		d := l.json(ocispec.MediaTypeImageManifest, map[string]any{
			"schemaVersion": 2, "mediaType": ocispec.MediaTypeImageManifest, "config": config, "layers": []ocispec.Descriptor{layer},
		})
		d.Platform = &ocispec.Platform{OS: "linux", Architecture: arch}
		list = append(list, d)
	}
	index := l.json(ocispec.MediaTypeImageIndex, map[string]any{"schemaVersion": 2, "mediaType": ocispec.MediaTypeImageIndex, "manifests": list})
	index.Annotations = map[string]string{ocispec.AnnotationRefName: "v1"}
	raw, err := json.Marshal(map[string]any{"schemaVersion": 2, "manifests": []ocispec.Descriptor{index}})
	if err != nil {
		t.Fatal(err)
	}
	l.file("index.json", raw)
	l.file("oci-layout", []byte(`{"imageLayoutVersion":"1.0.0"}`))
	return dir
}

// layoutWriter writes an OCI layout.
type layoutWriter struct {
	t   *testing.T
	dir string
}

func (l layoutWriter) file(name string, content []byte) {
	l.t.Helper()
	path := filepath.Join(l.dir, name)
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		l.t.Fatal(err)
	}
	if err := os.WriteFile(path, content, 0o600); err != nil {
		l.t.Fatal(err)
	}
}

func (l layoutWriter) blob(mediaType string, content []byte) ocispec.Descriptor {
	l.t.Helper()
	d := ocispec.Descriptor{MediaType: mediaType, Digest: digest.FromBytes(content), Size: int64(len(content))}
	l.file(fmt.Sprintf("blobs/sha256/%s", d.Digest.Encoded()), content)
	return d
}

func (l layoutWriter) json(mediaType string, v any) ocispec.Descriptor {
	l.t.Helper()
	raw, err := json.Marshal(v)
	if err != nil {
		l.t.Fatal(err)
	}
	return l.blob(mediaType, raw)
}

// TestPublishIdentity: a name that no site config can demand would make every signature worthless where one is demanded,
// and the operator would learn of it from a device.
func TestPublishIdentity(t *testing.T) {
	w := newShop(t)
	layout := "oci:" + filepath.Join(w.dir, "layout") + ":1"
	for name, c := range map[string]struct {
		args []string
		want string // in the error; empty for none
	}{
		"repository":   {[]string{"--identity", "registry.example/os", "--sign", w.key}, ""},
		"with a tag":   {[]string{"--identity", "registry.example/os:1", "--sign", w.key}, "without a tag"},
		"a URL":        {[]string{"--identity", "https://registry.example/os", "--sign", w.key}, "without a tag"},
		"no registry":  {[]string{"--identity", "os", "--sign", w.key}, "without a tag"},
		"no signature": {[]string{"--identity", "registry.example/os"}, "--identity goes with --sign"},
	} {
		code, _, stderr := sealboot(append([]string{"publish", layout, "--kernel", w.kernel}, c.args...)...)
		if (code == 0) != (c.want == "") || !strings.Contains(stderr, c.want) {
			t.Errorf("%s: exit code %d, want %q in\n%s", name, code, c.want, stderr)
		}
	}
}

package loader

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"encoding/pem"
	"slices"
	"strings"
	"testing"

	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
	"oras.land/oras-go/v2/registry/remote"

	"github.com/sealboot/sealboot/boot/config"
	"github.com/sealboot/sealboot/boot/flow"
	"github.com/sealboot/sealboot/boot/image/handover"
	ocipublish "github.com/sealboot/sealboot/boot/publish/ocipush"
	"github.com/sealboot/sealboot/measure/cel"
	"github.com/sealboot/sealboot/measure/event"
)

// signer makes a key that signs images.
func signer(t *testing.T) (*ocipublish.Signer, []byte) {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	der, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		t.Fatal(err)
	}
	s, err := ocipublish.ParseSigner(pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: der}), nil)
	if err != nil {
		t.Fatal(err)
	}
	return s, pkix(t, &key.PublicKey)
}

// TestSigned has two repositories, each with keys of its own. The image of the
// first is not signed by enough of its keys, that of the second is, once in each
// form: it boots, and which keys admitted it is measured.
func TestSigned(t *testing.T) {
	w := newWorld(t)
	ctx := t.Context()
	repo, err := remote.NewRepository(w.host() + "/os")
	if err != nil {
		t.Fatal(err)
	}
	repo.PlainHTTP = true
	image, err := repo.Resolve(ctx, "stable")
	if err != nil {
		t.Fatal(err)
	}
	image = ocispec.Descriptor{MediaType: image.MediaType, Digest: image.Digest, Size: image.Size}
	classic, classicKey := signer(t)
	bundle, bundleKey := signer(t)
	_, otherKey := signer(t)
	if err := classic.SignClassic(ctx, repo, image, "registry.example/os:1"); err != nil {
		t.Fatal(err)
	}
	if err := bundle.SignBundle(ctx, repo, image, "registry.example/os:1"); err != nil {
		t.Fatal(err)
	}
	strict, other := w.conf.Sources[0], w.conf.Sources[0]
	strict.Keys, strict.Threshold = [][]byte{otherKey, classicKey}, 2
	other.Keys, other.Threshold, other.Identity = [][]byte{otherKey, bundleKey, classicKey}, 2, "registry.example/os"
	w.conf.Sources = []config.Source{strict, other}
	if outcome, err := w.boot(); outcome != flow.Kexec {
		t.Fatalf("boot: %v, %v\n%s", outcome, err, &w.out)
	}
	if out := strings.Join(strings.Fields(w.out.String()), " "); !strings.Contains(out, "1 of 2 signatures needed, by 2 pinned keys") {
		t.Errorf("the console does not say why the first source was refused:\n%s", out)
	}
	log := w.loaded.handover[handover.Dir+"/"+handover.EventLog]
	w.tpm.Open(t)
	checkLog(t, w, log) // and with it PCR 13
	entries, err := cel.Parse(log)
	if err != nil {
		t.Fatal(err)
	}
	want := []string{classic.KeyID(), bundle.KeyID()}
	slices.Sort(want)
	for _, e := range entries {
		if e.Record.Type != event.TypeProvenance {
			continue
		}
		if got := e.Record.Detail["keys"]; e.PCR != event.PCRAuthority || got != strings.Join(want, ",") || e.Record.SHA256 != image.Digest.Encoded() {
			t.Errorf("PCR %d: image %s, keys %q; want %q", e.PCR, e.Record.SHA256, got, want)
		}
		return
	}
	t.Error("what admitted the image was not measured")
}

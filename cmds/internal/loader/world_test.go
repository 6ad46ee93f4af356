package loader

import (
	"bytes"
	"context"
	"crypto/ecdsa"
	"crypto/sha256"
	"crypto/x509"
	"encoding/hex"
	"encoding/json"
	"errors"
	"io"
	"log"
	"net"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	ggcr "github.com/google/go-containerregistry/pkg/registry"
	"github.com/google/go-tpm/tpm2"
	"github.com/opencontainers/go-digest"
	"github.com/opencontainers/image-spec/specs-go"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
	"oras.land/oras-go/v2/registry/remote"

	"github.com/sealboot/sealboot/attest/device"
	"github.com/sealboot/sealboot/attest/policy"
	"github.com/sealboot/sealboot/attest/server"
	"github.com/sealboot/sealboot/attest/server/site"
	"github.com/sealboot/sealboot/attest/store"
	"github.com/sealboot/sealboot/boot/boottest/ukitest"
	"github.com/sealboot/sealboot/boot/boottest/volumetest"
	"github.com/sealboot/sealboot/boot/config"
	"github.com/sealboot/sealboot/boot/flow"
	"github.com/sealboot/sealboot/boot/image/cpio"
	"github.com/sealboot/sealboot/boot/image/kexec"
	"github.com/sealboot/sealboot/boot/image/osimage"
	"github.com/sealboot/sealboot/boot/machine/console"
	"github.com/sealboot/sealboot/boot/source/volume"
	"github.com/sealboot/sealboot/measure/event"
	"github.com/sealboot/sealboot/measure/floor"
	"github.com/sealboot/sealboot/measure/fwlog"
	"github.com/sealboot/sealboot/measure/predict"
	"github.com/sealboot/sealboot/measure/tpm/tpmtest"
)

// A world is a site with its attestd, a registry with an image, and a machine
// with a TPM: everything real but the kernel that kexec loads into.
type world struct {
	t        *testing.T
	tpm      *tpmtest.TPM
	site     *site.Site
	store    *store.Store
	attestd  func()           // ends attestd
	ahead    atomic.Int64     // by how much attestd's clock is, in nanoseconds
	registry *httptest.Server // plain HTTP
	conf     *config.Site
	out      bytes.Buffer // console

	loaded  *loaded       // what kexec was given; nil as long as nothing
	kexec   error         // what it answers
	layout  string        // directory in place of SB-MEDIA
	volumes volume.System // its disks
	machine *Machine
	change  func(*Options) // of a boot; may be nil
}

// loaded is a payload as kexec saw it.
type loaded struct {
	cmdline  string
	kernel   []byte
	handover map[string][]byte
}

var kernelText = ukitest.BzImage("a kernel")

const (
	initrdText = "an initrd"
	imageLine  = "console=ttyS0 quiet"
	siteLine   = "site=lab"
)

func newWorld(t *testing.T) *world {
	t.Helper()
	w := &world{t: t, tpm: tpmtest.Start(t, tpmtest.Options{}), volumes: volumetest.Machine(t)}
	w.registry = httptest.NewServer(ggcr.New(ggcr.Logger(log.New(io.Discard, "", 0))))
	t.Cleanup(w.registry.Close)
	w.startAttestd()
	w.enrol()
	w.push(kernelText, initrdText)
	w.trust("os-1", kernelText, initrdText)
	w.conf = &config.Site{
		Name:       "lab",
		Attestd:    &config.Attestd{URL: w.site.URL, CA: string(w.site.CA.PEM())},
		ServerKey:  pkix(t, w.site.ServerPublic()),
		ReleaseKey: pkix(t, w.site.ReleasePublic()),
		Sources:    []config.Source{{Type: config.SourceOCI, Ref: w.host() + "/os:stable", PlainHTTP: true}},
		Cmdline:    siteLine,
		Rounds:     1,
	}
	return w
}

func (w *world) host() string { return strings.TrimPrefix(w.registry.URL, "http://") }

func pkix(t *testing.T, k *ecdsa.PublicKey) []byte {
	t.Helper()
	der, err := x509.MarshalPKIXPublicKey(k)
	if err != nil {
		t.Fatal(err)
	}
	return der
}

func (w *world) startAttestd() {
	t := w.t
	t.Helper()
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	dir := filepath.Join(t.TempDir(), "site")
	set := site.Settings{Name: "lab", URL: "https://" + listener.Addr().String(), Endorsement: site.EndorsedByHash}
	if err := site.Init(dir, set, nil, time.Now); err != nil {
		t.Fatal(err)
	}
	now := func() time.Time { return time.Now().Add(time.Duration(w.ahead.Load())) }
	if w.site, err = site.Load(dir, now); err != nil {
		t.Fatal(err)
	}
	if w.store, err = w.site.OpenStore(t.Context(), now); err != nil {
		t.Fatal(err)
	}
	s, err := server.New(server.Config{Site: w.site, Store: w.store, Now: now})
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- s.Serve(ctx, listener, nil) }()
	stopped := false
	w.attestd = func() {
		if stopped {
			return
		}
		stopped = true
		cancel()
		if err := errors.Join(<-done, w.store.Close()); err != nil {
			t.Error(err)
		}
	}
	t.Cleanup(w.attestd)
	w.add(policy.DefaultRules("rules", policy.RootVirtual))
}

// add puts a document into the site's policy.
func (w *world) add(d policy.Document) {
	w.t.Helper()
	body, err := policy.Marshal(d)
	if err != nil {
		w.t.Fatal(err)
	}
	kind, name := policy.NameOf(d)
	if err := w.store.Add(w.t.Context(), store.Document{Kind: string(kind), Name: name, Body: body}, store.Event{Kind: "policy"}); err != nil {
		w.t.Fatal(err)
	}
}

// enrol registers the machine, whose emulator has no firmware that measures.
func (w *world) enrol() {
	t := w.t
	t.Helper()
	eks, err := (&device.Client{TPM: w.tpm.TPM}).EKs(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	d := store.Device{ID: eks[0], EKs: eks, State: store.Enrolled, Tier: "hash", Label: "box"}
	if err := w.store.Enrol(t.Context(), d, store.Event{Kind: "enrol"}); err != nil {
		t.Fatal(err)
	}
	if err := w.store.SetPolicy(t.Context(), d.ID, store.DevicePolicy{AllowUnmeasured: true}, store.Event{Kind: "policy"}); err != nil {
		t.Fatal(err)
	}
	if err := (floor.Store{TPM: w.tpm.TPM}).Provision(t.Context(), floor.Record{Time: time.Now()}); err != nil {
		t.Fatal(err)
	}
	// The loader opens the TPM itself, and swtpm serves one at a time.
	if err := w.tpm.Close(); err != nil {
		t.Fatal(err)
	}
}

// push publishes kernel and initrd as os:stable.
func (w *world) push(kernel, initrd string) {
	w.t.Helper()
	w.pushTo("os", kernel, initrd, nil)
}

// repository is one of the world's registry.
func (w *world) repository(name string) *remote.Repository {
	w.t.Helper()
	repo, err := remote.NewRepository(w.host() + "/" + name)
	if err != nil {
		w.t.Fatal(err)
	}
	repo.PlainHTTP = true
	return repo
}

// pushTo publishes kernel and initrd as the tag stable of a repository.
func (w *world) pushTo(name, kernel, initrd string, annotations map[string]string) ocispec.Descriptor {
	t := w.t
	t.Helper()
	repo := w.repository(name)
	blob := func(mediaType, text string) ocispec.Descriptor {
		d := ocispec.Descriptor{MediaType: mediaType, Digest: digest.FromString(text), Size: int64(len(text))}
		if err := repo.Push(t.Context(), d, strings.NewReader(text)); err != nil {
			t.Fatal(err)
		}
		return d
	}
	m := ocispec.Manifest{
		Versioned: specs.Versioned{SchemaVersion: 2}, MediaType: ocispec.MediaTypeImageManifest, ArtifactType: osimage.ArtifactLinux,
		Annotations: annotations,
		Config:      blob(ocispec.MediaTypeEmptyJSON, "{}"),
		Layers: []ocispec.Descriptor{
			blob(osimage.MediaTypeKernel, kernel), blob(osimage.MediaTypeInitrd, initrd), blob(osimage.MediaTypeCmdline, imageLine),
		},
	}
	raw, err := json.Marshal(m)
	if err != nil {
		t.Fatal(err)
	}
	d := ocispec.Descriptor{MediaType: m.MediaType, Digest: digest.FromBytes(raw), Size: int64(len(raw))}
	if err := repo.PushReference(t.Context(), d, bytes.NewReader(raw), "stable"); err != nil {
		t.Fatal(err)
	}
	return d
}

func descriptor(kernel, initrd string) event.Descriptor {
	part := func(role, text string) event.Artifact {
		sum := sha256.Sum256([]byte(text))
		return event.Artifact{Role: role, SHA256: hex.EncodeToString(sum[:]), Size: int64(len(text))}
	}
	return event.Descriptor{Kind: event.KindLinux, Artifacts: []event.Artifact{
		part(event.RoleKernel, kernel), part(event.RoleInitrd, initrd), part(event.RoleCmdline, imageLine+" "+siteLine),
	}}
}

// trust predicts an image from its parts, as an operator would.
func (w *world) trust(name, kernel, initrd string) *policy.Image {
	w.t.Helper()
	return w.trustVersion(name, kernel, initrd, 1)
}

func (w *world) trustVersion(name, kernel, initrd string, version uint64) *policy.Image {
	w.t.Helper()
	i, err := policy.NewImage(name, "", version, descriptor(kernel, initrd), []tpm2.TPMAlgID{tpm2.TPMAlgSHA256})
	if err != nil {
		w.t.Fatal(err)
	}
	w.add(i)
	return i
}

// boot runs one boot of the machine.
func (w *world) boot() (flow.Outcome, error) {
	t := w.t
	t.Helper()
	raw, err := w.conf.Marshal()
	if err != nil {
		t.Fatal(err)
	}
	parsed, err := config.ParseSite(raw)
	if err != nil {
		t.Fatal(err)
	}
	w.out.Reset()
	o := Options{
		Site: parsed, SiteRaw: raw, Version: "test", TPM: w.tpm.Addr, NoNetwork: true, Kexec: w.load, Layout: w.layout,
		Console:     console.New(console.Options{Out: &w.out, Lines: true}),
		FirmwareLog: func(context.Context) ([]byte, error) { return nil, fwlog.ErrNoLog },
	}
	if w.change != nil {
		w.change(&o)
	}
	if w.machine, err = New(o); err != nil {
		t.Fatal(err)
	}
	w.machine.volumes = w.volumes
	b, err := w.machine.Boot()
	if err != nil {
		t.Fatal(err)
	}
	b.Sleep = func(ctx context.Context, _ time.Duration) error { return ctx.Err() }
	ctx, cancel := context.WithTimeout(t.Context(), 2*time.Minute)
	defer cancel()
	outcome, err := b.Run(ctx)
	if cerr := w.machine.Close(); cerr != nil {
		t.Error(cerr)
	}
	if t.Failed() || testing.Verbose() {
		t.Logf("console:\n%s", &w.out)
	}
	return outcome, err
}

// load stands in for the kernel.
func (w *world) load(_ context.Context, p kexec.Payload) error {
	w.t.Helper()
	l := &loaded{cmdline: p.Cmdline, handover: make(map[string][]byte)}
	var err error
	if l.kernel, err = io.ReadAll(p.Kernel); err != nil {
		return err
	}
	var archive bytes.Buffer
	if err := p.Handover(&archive); err != nil {
		return err
	}
	r := cpio.NewReader(&archive)
	for {
		h, err := r.Next()
		if err == io.EOF {
			break
		}
		if err != nil {
			return err
		}
		if l.handover[h.Name], err = io.ReadAll(r); err != nil {
			return err
		}
	}
	w.loaded = l
	return w.kexec
}

// pcr12 is what an operating system, or an attacker, finds in the image PCR.
func (w *world) pcr12() string {
	w.t.Helper()
	conn := w.tpm.Open(w.t)
	values, err := conn.ReadPCRs(w.t.Context(), tpm2.TPMAlgSHA256, []int{12})
	if err != nil {
		w.t.Fatal(err)
	}
	return hex.EncodeToString(values[12])
}

// predicted is what the loader measures for the world's image.
func (w *world) predicted() *predict.Image {
	w.t.Helper()
	i, err := predict.ForImage(descriptor(kernelText, initrdText), []tpm2.TPMAlgID{tpm2.TPMAlgSHA256})
	if err != nil {
		w.t.Fatal(err)
	}
	return i
}

// afterCap is what the operating system of the world's image finds in PCR 12.
func (w *world) afterCap() string {
	w.t.Helper()
	return hex.EncodeToString(w.predicted().AfterCap[tpm2.TPMAlgSHA256])
}

func TestMain(m *testing.M) {
	// The tests' site config is for the lab; nothing here may use a proxy.
	for _, name := range []string{"HTTP_PROXY", "HTTPS_PROXY", "http_proxy", "https_proxy"} {
		os.Unsetenv(name)
	}
	os.Exit(m.Run())
}

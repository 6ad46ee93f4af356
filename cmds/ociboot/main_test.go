package main

import (
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/opencontainers/go-digest"
	"github.com/opencontainers/image-spec/specs-go"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/sealboot/sealboot/boot/boottest/ukitest"
	"github.com/sealboot/sealboot/boot/image/osimage"
	"github.com/sealboot/sealboot/cmds/internal/loader"
	"github.com/sealboot/sealboot/measure/tpm/tpmtest"
)

// layout writes an OCI layout with one image of a kernel and an initrd.
func layout(t *testing.T) string {
	t.Helper()
	return layoutOf(t, ukitest.BzImage("kernel"))
}

func layoutOf(t *testing.T, kernel string) string {
	t.Helper()
	dir := t.TempDir()
	put := func(name string, data []byte) {
		path := filepath.Join(dir, name)
		if err := errors.Join(os.MkdirAll(filepath.Dir(path), 0o755), os.WriteFile(path, data, 0o644)); err != nil {
			t.Fatal(err)
		}
	}
	blob := func(mediaType, text string) ocispec.Descriptor {
		d := ocispec.Descriptor{MediaType: mediaType, Digest: digest.FromString(text), Size: int64(len(text))}
		put("blobs/sha256/"+d.Digest.Encoded(), []byte(text))
		return d
	}
	m := ocispec.Manifest{Versioned: specs.Versioned{SchemaVersion: 2}, MediaType: ocispec.MediaTypeImageManifest, ArtifactType: osimage.ArtifactLinux,
		Config: blob(ocispec.MediaTypeEmptyJSON, "{}"),
		Layers: []ocispec.Descriptor{blob(osimage.MediaTypeKernel, kernel), blob(osimage.MediaTypeInitrd, "initrd"), blob(osimage.MediaTypeCmdline, "quiet")}}
	raw, err := json.Marshal(m)
	if err != nil {
		t.Fatal(err)
	}
	d := blob(m.MediaType, string(raw))
	d.Annotations = map[string]string{ocispec.AnnotationRefName: "v1"}
	index, err := json.Marshal(ocispec.Index{Versioned: specs.Versioned{SchemaVersion: 2}, MediaType: ocispec.MediaTypeImageIndex, Manifests: []ocispec.Descriptor{d}})
	if err != nil {
		t.Fatal(err)
	}
	put("index.json", index)
	put("oci-layout", []byte(`{"imageLayoutVersion":"1.0.0"}`))
	return dir
}

// output runs ociboot and returns its exit code and what it printed.
func output(t *testing.T, args ...string) (code int, stdout, stderr string) {
	t.Helper()
	read := func(dst **os.File) func() string {
		was := *dst
		f, err := os.Create(filepath.Join(t.TempDir(), "out"))
		if err != nil {
			t.Fatal(err)
		}
		*dst = f
		return func() string {
			*dst = was
			defer f.Close()
			b, err := os.ReadFile(f.Name())
			if err != nil {
				t.Fatal(err)
			}
			return string(b)
		}
	}
	out, diag := read(&os.Stdout), read(&os.Stderr)
	code = run(args)
	return code, out(), diag()
}

func TestVersion(t *testing.T) {
	if code, out, diag := output(t, "--version"); code != loader.ExitOK || out != "ociboot "+loader.Version()+"\n" || diag != "" {
		t.Errorf("exit code %d, %q, %q", code, out, diag)
	}
	if code, out, diag := output(t, "--version", "registry.example/os:1"); code != loader.ExitUsage || !strings.Contains(diag, "goes alone") {
		t.Errorf("with an image: exit code %d, %q, %q", code, out, diag)
	}
}

func TestDryRun(t *testing.T) {
	dir := layout(t)
	code, out, diag := output(t, "--dry-run", "--json", "--cmdline", "extra", dir)
	if code != loader.ExitOK {
		t.Fatalf("exit code %d\n%s", code, diag)
	}
	var p loader.Plan
	d := json.NewDecoder(bytes.NewReader([]byte(out)))
	d.DisallowUnknownFields()
	if err := d.Decode(&p); err != nil {
		t.Fatal(err)
	}
	sum := sha256.Sum256([]byte(ukitest.BzImage("kernel")))
	if p.Kind != "linux" || p.Cmdline != "quiet extra" || p.PCR != 12 || len(p.AtQuote) != 64 || p.AtQuote == p.AfterCap ||
		p.Artifacts[0].Role != "kernel" || p.Artifacts[0].SHA256 != hex.EncodeToString(sum[:]) {
		t.Errorf("plan %+v", p)
	}
	code, out, _ = output(t, "--dry-run", "--tag", "v1", dir)
	if code != loader.ExitOK || !strings.Contains(out, "PCR 12") || !strings.Contains(out, hex.EncodeToString(sum[:])) {
		t.Errorf("exit code %d\n%s", code, out)
	}
}

// TestMistypedPlatform: a platform that is not known never makes a boot of what is
// no kernel.
func TestMistypedPlatform(t *testing.T) {
	dir := layoutOf(t, strings.Repeat("x", 600))
	for _, platform := range []string{"linux/x86_64", "linux/amd46", "linux/aarch64", "amd64", "linux", "linux/", "/", "windows/amd64", "linux/amd64/", "linux/amd64/v9", "linux/arm64/v8/v8", "Linux/amd64"} {
		code, out, diag := output(t, "--dry-run", "--platform", platform, dir)
		if code != loader.ExitUsage || out != "" || !strings.Contains(diag, "linux/amd64, linux/arm64") {
			t.Errorf("%s: exit code %d\n%s%s", platform, code, diag, out)
		}
	}
	for _, platform := range []string{"", "linux/amd64", "linux/amd64/v3", "linux/arm64", "linux/arm64/v8"} {
		code, out, diag := output(t, "--dry-run", "--platform", platform, dir)
		if code != loader.ExitFailed || out != "" || !strings.Contains(strings.Join(strings.Fields(diag), " "), "no known format") {
			t.Errorf("%s: exit code %d\n%s%s", platform, code, diag, out)
		}
	}
}

func TestExitCodes(t *testing.T) {
	dir := layout(t)
	key := filepath.Join(t.TempDir(), "key.pem")
	if err := os.WriteFile(key, []byte("no key"), 0o600); err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct {
		name string
		args []string
		code int
		says string
	}{
		{"help", []string{"--help"}, loader.ExitOK, "usage"},
		{"no image", nil, loader.ExitUsage, "want one image"},
		{"unknown flag", []string{"--faster", dir}, loader.ExitUsage, "faster"},
		{"JSON without a dry run", []string{"--json", dir}, loader.ExitUsage, "--dry-run"},
		{"tag of a registry", []string{"--dry-run", "--tag", "v1", "r/x"}, loader.ExitUsage, "directory"},
		{"no key", []string{"--dry-run", "--key", key, dir}, loader.ExitUsage, "PEM"},
		{"identity without keys", []string{"--dry-run", "--identity", "registry.example/os", dir}, loader.ExitUsage, "--identity goes with --key"},
		{"threshold without keys", []string{"--dry-run", "--threshold", "1", dir}, loader.ExitUsage, "threshold"},
		{"no credentials", []string{"--dry-run", "--auth", "/none", dir}, loader.ExitUsage, "--auth"},
		{"no CA", []string{"--dry-run", "--ca", "/none", "r/x"}, loader.ExitUsage, "--ca"},
		{"no such tag", []string{"--dry-run", "--tag", "v2", dir}, loader.ExitFailed, "not found"},
		{"no layout", []string{"--dry-run", t.TempDir()}, loader.ExitFailed, "no OCI layout"},
		{"registry gone", []string{"--dry-run", "--plain-http", "127.0.0.1:1/os:v1"}, loader.ExitFailed, "refused"},
		{"bad reference", []string{"--dry-run", "busybox"}, loader.ExitFailed, "reference"},
		{"no TPM", []string{"--tpm", "unix:/none", dir}, loader.ExitFailed, "--no-tpm"},
		{"TPM of another kind", []string{"--tpm", key, dir}, loader.ExitFailed, "TPM"},
	} {
		t.Run(c.name, func(t *testing.T) {
			code, out, diag := output(t, c.args...)
			if code != c.code || !strings.Contains(diag, c.says) || out != "" {
				t.Errorf("exit code %d, want %d; want %q in\n%s%s", code, c.code, c.says, diag, out)
			}
		})
	}
}

// TestExitMeasured boots an image that is no kernel: it is measured by the time the kernel says so.
func TestExitMeasured(t *testing.T) {
	tpm := tpmtest.Start(t, tpmtest.Options{})
	if err := tpm.Close(); err != nil { // it serves one at a time
		t.Fatal(err)
	}
	code, _, diag := output(t, "--tpm", tpm.Addr, layout(t))
	if code != loader.ExitMeasured || !strings.Contains(diag, "FAILED at load") {
		t.Errorf("exit code %d, want %d\n%s", code, loader.ExitMeasured, diag)
	}
	code, _, diag = output(t, "--tpm", tpm.Addr, layout(t))
	if code != loader.ExitFailed || !strings.Contains(diag, "power-cycle") {
		t.Errorf("once more: exit code %d, want %d\n%s", code, loader.ExitFailed, diag)
	}
}

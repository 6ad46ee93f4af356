package platform_test

import (
	"errors"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/sealboot/sealboot/boot/base/platform"
)

func TestParse(t *testing.T) {
	for name, want := range map[string]ocispec.Platform{
		"linux/amd64":      {OS: "linux", Architecture: "amd64"},
		"linux/amd64/v3":   {OS: "linux", Architecture: "amd64", Variant: "v3"},
		"linux/arm64":      {OS: "linux", Architecture: "arm64"},
		"linux/arm64/v8":   {OS: "linux", Architecture: "arm64", Variant: "v8"},
		"linux/riscv64":    {OS: "linux", Architecture: "riscv64"},
		"linux/arm64/v8.2": {OS: "linux", Architecture: "arm64", Variant: "v8.2"},
	} {
		got, err := platform.Parse(name)
		if d := cmp.Diff(want, got); d != "" || err != nil {
			t.Errorf("%s: %v\n%s", name, err, d)
		}
	}
	for name, says := range map[string]string{
		"linux/x86_64":     "x86_64 is called amd64 here",
		"linux/aarch64":    "aarch64 is called arm64 here",
		"linux/amd46":      "want one of linux/amd64, linux/arm64, linux/riscv64",
		"linux/amd64/v8":   "linux/amd64/v3 or linux/arm64/v8",
		"linux/amd64/":     "linux/amd64/v3 or linux/arm64/v8",
		"linux/arm64/v7":   "linux/amd64/v3 or linux/arm64/v8",
		"linux/arm64/v8/x": "linux/amd64/v3 or linux/arm64/v8",
		"":                 "want one of", "amd64": "want one of", "linux": "want one of", "/amd64": "want one of",
		"windows/amd64": "want one of", "linux/s390x": "want one of", "linux/amd64 ": "want one of", "LINUX/AMD64": "want one of",
		"linux/" + strings.Repeat("x", 1000): "want one of",
	} {
		_, err := platform.Parse(name)
		if !errors.Is(err, platform.ErrUnknown) || !strings.Contains(err.Error(), says) || len(err.Error()) > 300 {
			t.Errorf("%.40q: %v, want %q", name, err, says)
		}
	}
}

func TestCheckArchitecture(t *testing.T) {
	for _, arch := range platform.Architectures() {
		if err := platform.CheckArchitecture(arch); err != nil {
			t.Errorf("%s: %v", arch, err)
		}
	}
	for _, arch := range []string{"", "x86_64", "amd46", "linux/amd64", "amd64/v3", "s390x"} {
		if err := platform.CheckArchitecture(arch); !errors.Is(err, platform.ErrUnknown) {
			t.Errorf("%q: %v", arch, err)
		}
	}
}

// FuzzParse checks that what is accepted is written the same again.
func FuzzParse(f *testing.F) {
	for _, name := range append(platform.Known(), "linux/arm64/v8.1", "linux/x86_64", "//", "") {
		f.Add(name)
	}
	f.Fuzz(func(t *testing.T, name string) {
		p, err := platform.Parse(name)
		if err == nil && strings.TrimSuffix(p.OS+"/"+p.Architecture+"/"+p.Variant, "/") != name {
			t.Errorf("%q is %+v", name, p)
		}
	})
}

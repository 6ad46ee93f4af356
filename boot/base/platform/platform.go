// Package platform reads the names of platforms, such as "linux/arm64/v8".
//
// There is one list of those that anything is known of, and every name that people
// write (in a site config, after a flag, in metadata) is compared with it. A
// mistyped one would else be for some machine that nothing is known of: no image of
// an index would match it, and nothing could say what its kernels look like.
package platform

import (
	"errors"
	"fmt"
	"maps"
	"regexp"
	"slices"
	"strings"

	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
)

// ErrUnknown is a name of no known platform or architecture.
var ErrUnknown = errors.New("unknown platform")

// variants are the architectures (GOARCH values) whose kernels are known, and the
// variants of each that an image index may name.
func variants() map[string]*regexp.Regexp {
	return map[string]*regexp.Regexp{
		"amd64":   regexp.MustCompile(`^v[1-4]$`),
		"arm64":   regexp.MustCompile(`^v[89](\.[0-9])?$`),
		"riscv64": regexp.MustCompile(`^rva[0-9]{2}u64$`),
	}
}

// aliases are what others call an architecture.
func aliases() map[string]string {
	return map[string]string{"x86_64": "amd64", "x86-64": "amd64", "x64": "amd64", "aarch64": "arm64", "arm64v8": "arm64"}
}

// Architectures lists those that are known.
func Architectures() []string { return slices.Sorted(maps.Keys(variants())) }

// Known lists the platforms without variants.
func Known() []string {
	var names []string
	for _, a := range Architectures() {
		names = append(names, "linux/"+a)
	}
	return names
}

// Parse reads "os/architecture" or "os/architecture/variant". Every other name than
// one of [Known], with or without a variant, is [ErrUnknown].
func Parse(name string) (ocispec.Platform, error) {
	os, rest, _ := strings.Cut(name, "/")
	arch, variant, varied := strings.Cut(rest, "/")
	want, ok := variants()[arch]
	if os == "linux" && ok && (!varied || want.MatchString(variant)) {
		return ocispec.Platform{OS: os, Architecture: arch, Variant: variant}, nil
	}
	err := fmt.Errorf("%w %.40q, want one of %s", ErrUnknown, name, strings.Join(Known(), ", "))
	switch meant, ok := aliases()[arch]; {
	case ok:
		err = fmt.Errorf("%w; %s is called %s here", err, arch, meant)
	case varied:
		err = fmt.Errorf("%w, perhaps with a variant such as linux/amd64/v3 or linux/arm64/v8", err)
	}
	return ocispec.Platform{}, err
}

// CheckArchitecture refuses an architecture that is not known, as [Parse] does.
func CheckArchitecture(arch string) error {
	if strings.Contains(arch, "/") {
		return fmt.Errorf("%w: %.40q is no architecture, want one of %s", ErrUnknown, arch, strings.Join(Architectures(), ", "))
	}
	if _, err := Parse("linux/" + arch); err != nil {
		return err
	}
	return nil
}

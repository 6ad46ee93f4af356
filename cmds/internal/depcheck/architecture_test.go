package depcheck

import (
	"os"

	"regexp"
	"strings"
	"testing"
)

// TestArchitecture holds the package list of docs/architecture.md to the code:
// every package is named, and every path that is named is there.
func TestArchitecture(t *testing.T) {
	const root = "../../../"
	text, err := os.ReadFile(root + "docs/architecture.md")
	if err != nil {
		t.Fatal(err)
	}
	packages, err := list(module + "...")
	if err != nil {
		t.Fatal(err)
	}
	for _, p := range packages {
		name := p[strings.LastIndex(p, "/")+1:]
		if strings.HasPrefix(name, "bench") { // named by the Makefile
			continue
		}
		if !regexp.MustCompile("[`/]" + regexp.QuoteMeta(name) + "[`/]").Match(text) {
			t.Errorf("docs/architecture.md does not name package %s", strings.TrimPrefix(p, module))
		}
	}
	places := regexp.MustCompile("`((?:attest|board|boot|cmds|docs|initramfs|measure|qemu)/[a-z0-9/-]+)`").FindAllSubmatch(text, -1)
	if len(places) < 20 {
		t.Errorf("found %d paths only", len(places))
	}
	for _, m := range places {
		if _, err := os.Stat(root + string(m[1])); err != nil {
			t.Errorf("docs/architecture.md names %s: %v", m[1], err)
		}
	}
}

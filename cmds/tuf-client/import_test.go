package main

import (
	"os/exec"
	"slices"
	"strings"
	"testing"
)

// TestSamePackageAsTufboot: what this client is tested with is what devices
// boot with. Neither it nor tufboot verifies metadata in another way.
func TestSamePackageAsTufboot(t *testing.T) {
	const module = "github.com/sealboot/sealboot/"
	for _, cmd := range []string{"tuf-client", "tufboot"} {
		if deps := list(t, "-deps", module+"cmds/"+cmd); !slices.Contains(deps, module+"boot/source/tuf") {
			t.Errorf("%s does not use boot/source/tuf", cmd)
		}
		for _, dep := range list(t, "-f", `{{join .Imports "\n"}}`, module+"cmds/"+cmd) {
			if strings.Contains(dep, "go-tuf") {
				t.Errorf("%s uses %s behind the back of boot/source/tuf", cmd, dep)
			}
		}
	}
}

// TestImportsOfTheClient: boot/source/tuf goes into firmware.
func TestImportsOfTheClient(t *testing.T) {
	const module = "github.com/sealboot/sealboot/"
	for _, dep := range list(t, "-deps", module+"boot/source/tuf", module+"boot/source/tuf/store", module+"boot/source/tuf/image", module+"boot/source/tuf/bundle") {
		for _, not := range []string{"database/", "html/template", "github.com/spf13/cobra", module + "attest", module + "boot/publish/tufrepo", module + "boot/boottest/tuftest"} {
			if strings.HasPrefix(dep, not) || strings.Contains(dep, "/prometheus/") {
				t.Errorf("boot/source/tuf depends on %s", dep)
			}
		}
		if dep == "testing" || strings.HasSuffix(dep, "metadata/updater") || strings.HasSuffix(dep, "metadata/fetcher") {
			t.Errorf("boot/source/tuf depends on %s", dep)
		}
	}
}

func list(t *testing.T, args ...string) []string {
	t.Helper()
	out, err := exec.CommandContext(t.Context(), "go", append([]string{"list"}, args...)...).Output()
	if err != nil {
		t.Fatalf("go list %v: %v", args, err)
	}
	return strings.Fields(string(out))
}

package depcheck

import (
	"slices"
	"strings"
	"testing"
)

const module = "github.com/sealboot/sealboot/"

// firmware is everything that a firmware command may be made of. No database,
// no templates, no metrics, no command line framework: a name goes on this list
// only when its code is worth flashing.
func firmware(command string) []string {
	return []string{
		module + "cmds/" + command,
		module + "cmds/internal/loader",
		module + "cmds/internal/version",
		module + "boot",
		module + "measure",
		module + "attest/device",
		module + "attest/keys",
		module + "attest/wire",

		"golang.org/x/sys/unix",
		"golang.org/x/sync",
		"golang.org/x/net/http/httpproxy",
		"golang.org/x/net/idna", // httpproxy
		"golang.org/x/text",     // idna

		// TPM.
		"github.com/google/go-tpm",

		// Network.
		"github.com/vishvananda/netlink",
		"github.com/vishvananda/netns",
		"github.com/insomniacslk/dhcp",
		"github.com/mdlayher/packet",  // dhcp
		"github.com/mdlayher/socket",  // packet
		"golang.org/x/net/bpf",        // packet
		"github.com/josharian/native", // packet
		"github.com/u-root/uio",       // dhcp
		"github.com/pierrec/lz4/v4",   // uio

		// Registries.
		"oras.land/oras-go/v2",
		"github.com/opencontainers/go-digest",
		"github.com/opencontainers/image-spec",

		// Compression.
		"github.com/klauspost/compress",
		"github.com/ulikunitz/xz",

		// TUF, and what its metadata package brings.
		"github.com/theupdateframework/go-tuf/v2/metadata",
		"github.com/secure-systems-lab/go-securesystemslib",
		"github.com/sigstore/sigstore/pkg",
		"github.com/sigstore/protobuf-specs",
		"github.com/google/go-containerregistry/pkg/name",
		"golang.org/x/crypto",
		"golang.org/x/term",
		"google.golang.org/protobuf",
		"google.golang.org/genproto/googleapis/api",
	}
}

// attestCommand is what "attest" may be made of, which also builds as a u-root command.
var attestCommand = []string{
	module + "cmds/attest",
	module + "cmds/internal/version",
	module + "measure",
	module + "attest/agent",
	module + "attest/ca",
	module + "attest/device",
	module + "attest/keys",
	module + "attest/result",
	module + "attest/seal",
	module + "attest/wire",
	"github.com/google/go-tpm",
	"golang.org/x/sys/unix",
}

func TestAttest(t *testing.T) { Check(t, module+"cmds/attest", attestCommand) }

// TestDirection pins which way dependencies point: commands use boot and
// attest, these use measure, and boot and attest know nothing of each other.
// What builds and runs loaders (initramfs, board, qemu) stands above boot.
func TestDirection(t *testing.T) {
	above := map[string][]string{
		"measure":   {},
		"boot":      {"measure"},
		"attest":    {"measure"},
		"initramfs": {"measure", "boot"},
		"board":     {"measure", "boot", "initramfs"},
		"qemu":      {"measure", "boot", "attest", "initramfs", "board"},
	}
	for top, below := range above {
		imports, err := list("-f", `{{$from := .ImportPath}}{{range .Imports}}{{$from}}:{{.}}{{"\n"}}{{end}}`, module+top+"/...")
		if err != nil {
			t.Fatal(err)
		}
		if len(imports) == 0 {
			t.Errorf("there is nothing in %s", top)
		}
		for _, line := range imports {
			from, to, _ := strings.Cut(line, ":")
			inside, ours := strings.CutPrefix(to, module)
			folder, _, _ := strings.Cut(inside, "/")
			if ours && folder != top && !slices.Contains(below, folder) {
				t.Errorf("%s imports %s: of this module, %s may import only %v", from, to, top, below)
			}
		}
	}
}

// TestPureVerifier pins that judging does no I/O: bytes in, verdict out.
func TestPureVerifier(t *testing.T) {
	for _, pure := range []string{"attest/verify", "attest/policy", "measure/cel", "measure/event", "measure/pcr"} {
		imports, err := list("-f", `{{join .Imports "\n"}}`, module+pure)
		if err != nil {
			t.Fatal(err)
		}
		for _, bad := range []string{"os", "net", "net/http", "io/fs", "os/exec", module + "measure/tpm"} {
			if slices.Contains(imports, bad) {
				t.Errorf("%s imports %s, but it judges bytes and does no I/O", pure, bad)
			}
		}
	}
}

func TestFirmware(t *testing.T) {
	for _, command := range []string{"netboot", "ociboot", "tufboot"} {
		t.Run(command, func(t *testing.T) {
			Check(t, module+"cmds/"+command, firmware(command))
		})
	}
}

// TestNoServerCode says it once more in the other direction, so that a careless
// edit of the list above does not do.
func TestNoServerCode(t *testing.T) {
	never := []string{"database/sql", "html/template", "expvar", "net/http/pprof", "testing",
		"github.com/spf13/cobra", "github.com/jackc/pgx", "modernc.org/sqlite", module + "attest/server", module + "attest/store"}
	for _, command := range []string{"netboot", "ociboot", "tufboot", "attest"} {
		deps, err := list("-deps", module+"cmds/"+command)
		if err != nil {
			t.Fatal(err)
		}
		for _, bad := range never {
			if i := slices.IndexFunc(deps, func(d string) bool { return d == bad || strings.HasPrefix(d, bad+"/") }); i >= 0 {
				t.Errorf("%s is made of %s, by\n%s", command, deps[i], path(module+"cmds/"+command, deps[i]))
			}
		}
	}
}

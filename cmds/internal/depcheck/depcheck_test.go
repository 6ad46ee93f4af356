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
	for _, command := range []string{"netboot", "ociboot", "tufboot"} {
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

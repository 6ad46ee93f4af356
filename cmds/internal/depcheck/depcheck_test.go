package depcheck

import (
	"maps"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

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
	module + "cmds/internal/guard", // no cores: the seal key passes through
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
			directory, _, _ := strings.Cut(inside, "/")
			if ours && directory != top && !slices.Contains(below, directory) {
				t.Errorf("%s imports %s: of this module, %s may import only %v", from, to, top, below)
			}
		}
	}
}

// rooms are the directories of boot, each with the others that it may use. The reason
// of those that it may not use is in docs/architecture.md.
var rooms = map[string][]string{
	"base":     {},
	"flow":     {},
	"config":   {"base"},
	"image":    {"base"},
	"source":   {"base"},
	"machine":  {"base", "config", "flow"},
	"publish":  {"base", "image", "source"},
	"boottest": {"base", "image", "source", "publish"},
}

// TestRooms holds boot to the list in docs/architecture.md, transitively.
func TestRooms(t *testing.T) {
	packages, err := list(module + "boot/...")
	if err != nil {
		t.Fatal(err)
	}
	room := func(pkg string) (string, bool) {
		inside, ours := strings.CutPrefix(pkg, module+"boot/")
		name, _, _ := strings.Cut(inside, "/")
		return name, ours
	}
	for _, p := range packages {
		from, _ := room(p)
		below, ok := rooms[from]
		if !ok {
			t.Errorf("%s stands in no room of boot: %v", p, slices.Sorted(maps.Keys(rooms)))
		}
		g := load(t, p)
		for dep := range g {
			if to, ours := room(dep); ours && to != from && !slices.Contains(below, to) {
				t.Errorf("%s is made of %s: %s may use only %v.\nIt gets in by:\n%s", p, dep, from, below, g.path(p, dep))
			}
		}
	}
}

// input and output, each with why what judges bytes must not reach it.
var inputOutput = []Rule{
	{"os", "a verdict must not depend on a file, a process or the environment"},
	{"io/fs", "a verdict must not depend on files"},
	{"path/filepath", "it walks directories"},
	{"net", "a verdict must not depend on whom the network lets one ask"},
	{"database/sql", "what is known of a device is passed in"},
	{"syscall", "it is a way around the rules above"},
	{"golang.org/x/sys", "it is a way around the rules above"},
	{"log", "what a verdict says is in the verdict, and may be secret"},
	{"math/rand", "a nonce from it can be guessed"},
	{"unsafe", "it is a way around everything"},
	{module + "measure/tpm", "evidence is judged as bytes; the TPM that made it is elsewhere"},
	{module + "measure/atomicfile", "it writes files"},
	{module + "attest/store", "what is known of a device is passed in"},
	{module + "attest/server", "the verifier is a part of it, not the other way around"},
}

// clocks are how one asks what time it is, and waits. A verdict's time is passed in.
var clocks = []string{"time.Now", "time.Since", "time.Until", "time.Sleep", "time.After", "time.AfterFunc", "time.Tick", "time.NewTimer", "time.NewTicker"}

// impure are imports of other people's packages that judging cannot do without.
// go-tpm can open a TPM or connect to a simulator; nothing here calls that.
var impure = []Excuse{
	{"github.com/google/go-tpm/tpmutil", "os", "opens TPM devices for its callers; its types are those of go-tpm's structures"},
	{"github.com/google/go-tpm/tpmutil", "net", "connects to simulators for its callers"},
	{"github.com/google/go-tpm/tpmutil", "golang.org/x/sys/unix", "polls a TPM that it has opened"},
	{"github.com/google/go-tpm/legacy/tpm2", "os", "go-tpm/tpm2 takes error codes from it"},
	{"golang.org/x/sys/unix", "syscall", "see tpmutil"},
	{"golang.org/x/sys/unix", "unsafe", "see tpmutil"},
	{"github.com/klauspost/compress/zstd", "log", "messages of a debug switch that is off when it is compiled"},
	{"github.com/klauspost/compress/internal/le", "unsafe", "reads words of a slice whose length was checked"},
	{"github.com/ulikunitz/xz/internal/xlog", "os", "where its messages would go, which are off"},
}

// TestPure pins what docs/architecture.md calls pure: judging does no I/O and
// knows no clock. Bytes in, verdict out. The parsers of what a stranger sends
// reach nothing either: what they are given is all they have.
func TestPure(t *testing.T) {
	needed := make(map[Excuse]bool)
	for _, pure := range []string{
		"attest/verify", "attest/policy", "attest/wire", "attest/keys", "measure/strict", "measure/jsonlimit",
		"measure/event", "measure/pcr", "measure/plaintext", "measure/cel", "measure/fwlog", "measure/fwlog/armor",
		"boot/image/cpio", "boot/image/uki", "boot/image/qcow2", "boot/image/xzstream", "boot/base/cmdline", "boot/image/unpack",
	} {
		t.Run(pure, func(t *testing.T) {
			for _, e := range Pure(t, module+pure, inputOutput, clocks, impure) {
				needed[e] = true
			}
		})
	}
	for _, e := range impure {
		if !needed[e] {
			t.Errorf("%s may import %s, but nothing pure needs that: take the excuse off the list", e.From, e.To)
		}
	}
}

// TestUses has calls under other names, and what only looks like one.
func TestUses(t *testing.T) {
	const source = `package p
import ("time"; clock "time"; "example.org/mytime")
var a, b = time.Now, clock.Since(x)
func f(o struct{ Now int }) { _ = o.Now; mytime.Now(); _ = time.Second }`
	got, err := uses("p.go", source, clocks)
	if err != nil {
		t.Fatal(err)
	}
	want := []string{"p.go:3:12 uses time.Now", "p.go:3:22 uses time.Since"}
	if d := cmp.Diff(want, got); d != "" {
		t.Errorf("uses (-want +got):\n%s", d)
	}
}

func TestFirmware(t *testing.T) {
	for _, command := range []string{"netboot", "ociboot", "tufboot"} {
		t.Run(command, func(t *testing.T) {
			Check(t, module+"cmds/"+command, firmware(command))
		})
	}
}

// never are what firmware is not made of, each with its reason. The lists above
// cover whole directories of this module; this one says what in them is not meant.
var never = []Rule{
	{module + "boot/publish", "the publisher's side, which writes to registries and holds signing keys"},
	{module + "boot/boottest", "for tests and measurements"},
	{module + "attest/server", "attestd's side"},
	{module + "attest/store", "attestd's side"},
	{module + "attest/policy", "attestd judges; a loader that can do so would be believed"},
	{module + "attest/verify", "attestd judges; a loader that can do so would be believed"},
	{module + "initramfs", "it builds loaders"},
	{module + "board", "it builds loaders"},
	{module + "qemu", "it runs machines"},
	{"*test", "for tests"},
	{"*bench", "for measurements"},
	{module + "measure/fwlog/armor", "for the recorder and the one who reads its console"},

	{"database/sql", "a loader has no database"},
	{"modernc.org/sqlite", "a loader has no database"},
	{"github.com/jackc/pgx", "a loader has no database"},
	{"html/template", "a loader has no pages, and it is half a megabyte"},
	{"text/template", "it turns off the linker's removal of methods that nothing calls"},
	{"expvar", "it answers on every HTTP server"},
	{"github.com/prometheus", "a loader is not scraped"},
	{"net/http/pprof", "it answers on every HTTP server"},
	{"net/http/httputil", "a loader is no proxy"},
	{"net/http/cgi", "a loader starts no programs for others"},
	{"net/rpc", "attestd's protocol is the only one"},
	{"net/smtp", "attestd's protocol is the only one"},
	{"plugin", "code comes from the measured image alone"},
	{"go/parser", "for tools"},
	{"testing", "for tests"},
	{"github.com/spf13/cobra", "firmware commands use the standard library's flag"},
	{"github.com/google/go-cmp", "for tests"},
}

// TestNever says it once more in the other direction, so that a careless edit of
// the lists above does not do.
func TestNever(t *testing.T) {
	for _, command := range []string{"netboot", "ociboot", "tufboot", "attest"} {
		t.Run(command, func(t *testing.T) { Never(t, module+"cmds/"+command, never) })
	}
}

// TestNeverNames finds rules that no longer name anything of this module.
func TestNeverNames(t *testing.T) {
	for _, r := range append(never, inputOutput...) {
		if inside, ours := strings.CutPrefix(r.Package, module); ours {
			if found, err := list(module + inside + "/..."); err != nil || len(found) == 0 {
				t.Errorf("there is no %s: %v", inside, err)
			}
		}
		if r.Why == "" {
			t.Errorf("%s is kept out without a reason", r.Package)
		}
	}
}

func TestRule(t *testing.T) {
	for _, c := range []struct {
		rule, pkg string
		want      bool
	}{
		{"net", "net", true}, {"net", "net/http", true}, {"net", "netip", false}, {"net/http", "net", false},
		{"*test", module + "boot/boottest/tuftest", true}, {"*test", module + "cmds/attest", false}, {"*test", "example.org/latest", false}, {"*test", module + "boot/source/tuf", false},
	} {
		if got := (Rule{Package: c.rule}).covers(c.pkg); got != c.want {
			t.Errorf("rule %s covers %s: %v, want %v", c.rule, c.pkg, got, c.want)
		}
	}
}

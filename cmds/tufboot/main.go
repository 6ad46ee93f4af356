// tufboot boots what a TUF repository says.
//
//	tufboot [flags] --root ROOT.json --metadata-url URL --target NAME
//	tufboot [flags] --root ROOT.json --bundle DIRECTORY --target NAME
//
// It follows the repository from the trusted root to the target, fetches and
// verifies it, and measures and starts it as ociboot does. The network must be
// up, unless the repository is an offline bundle.
//
// Exit codes are those of ociboot: 0 the dry run succeeded, 1 failed and
// nothing was measured, 2 the command line is wrong, 3 failed after the image
// was measured. A boot that succeeds does not return.
package main

import (
	"errors"
	"fmt"
	"os"

	"github.com/sealboot/sealboot/boot/config"
	"github.com/sealboot/sealboot/cmds/internal/loader"
)

func main() { os.Exit(run(os.Args[1:])) }

func run(args []string) int { return loader.Run("tufboot", args, parse) }

const usage = `usage: tufboot [flags] --root ROOT.json (--metadata-url URL | --bundle DIRECTORY) --target NAME

Boot a target of a TUF repository.

  tufboot --dry-run --root root.json --metadata-url https://tuf.example/metadata --target os
  tufboot --root root.json --bundle /media/stick --target os

Flags:
`

func parse(args []string) (*loader.Machine, *loader.Flags, error) {
	var f loader.Flags
	s := f.Set("tufboot", usage)
	root := s.String("root", "", "`FILE`: the root.json to trust")
	target := s.String("target", "", "`NAME` of the target to boot")
	metadata := s.String("metadata-url", "", "`URL` of the repository's metadata")
	targets := s.String("targets-url", "", "`URL` of its targets (default the directory \"targets\" next to the metadata)")
	bundle := s.String("bundle", "", "`DIRECTORY` with an offline bundle, in place of --metadata-url")
	var mirrors loader.Strings
	s.Var(&mirrors, "mirror", "`URL` of a directory with \"metadata\" and \"targets\" of the same repository; may be repeated")
	if err := s.Parse(args); err != nil {
		return nil, nil, err
	}
	if s.NArg() != 0 || *root == "" || *target == "" || (*metadata == "") == (*bundle == "") {
		s.Usage()
		return nil, nil, errors.New("want --root, --target and either --metadata-url or --bundle, and no arguments")
	}
	text, err := os.ReadFile(*root)
	if err != nil {
		return nil, nil, fmt.Errorf("--root: %w", err)
	}
	src := config.Source{Type: config.SourceTUF, Root: text, Target: *target, MetadataURL: *metadata, TargetsURL: *targets, Mirrors: mirrors}
	if *bundle != "" {
		src.Type = config.SourceMedia
	}
	m, err := f.Machine(src, loader.Options{Layout: *bundle})
	return m, &f, err
}

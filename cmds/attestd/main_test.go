package main

import (
	"bytes"
	"context"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/sealboot/sealboot/attest/server/site"
	"github.com/sealboot/sealboot/cmds/internal/cli"
)

func TestUsage(t *testing.T) {
	for name, c := range map[string]struct {
		args []string
		code int
		want string
	}{
		"nothing":       {nil, 0, "attestd [command]"},
		"help":          {[]string{"serve", "--help"}, 0, "attestd serve --dir DIR"},
		"unknown":       {[]string{"serv"}, cli.Usage, "Did you mean this?\n\tserve"},
		"no directory":  {[]string{"serve"}, cli.Usage, "usage: attestd serve --dir DIR"},
		"unknown flag":  {[]string{"serve", "--nope"}, cli.Usage, "nope"},
		"missing site":  {[]string{"serve", "--dir", "/nonexistent"}, cli.Failed, "sealboot site init"},
		"trailing text": {[]string{"serve", "--dir", "x", "y"}, cli.Usage, "More: attestd serve --help"},
	} {
		var out bytes.Buffer
		root := newRootCmd()
		root.SetArgs(c.args)
		root.SetOut(&out)
		if code := cli.Run(t.Context(), root, &out); code != c.code || !strings.Contains(out.String(), c.want) {
			t.Errorf("%s: exit %d, %q; want %d and %q", name, code, out.String(), c.code, c.want)
		}
	}
}

func TestServeRefuses(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "site")
	set := site.Settings{Name: "lab", URL: "https://127.0.0.1:1", Endorsement: site.EndorsedByHash}
	if err := site.Init(dir, set, nil, time.Now); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	var log bytes.Buffer
	o := options{dir: dir, listen: "127.0.0.1:0", admin: "127.0.0.1:0"}
	if err := serve(ctx, o, &log); err == nil {
		t.Error("opened its store although it was told to end")
	}
	o.admin = "0.0.0.0:0"
	if err := serve(t.Context(), o, &log); err == nil || !strings.Contains(err.Error(), "loopback") {
		t.Errorf("admin on all addresses: %v", err)
	}
	if err := os.Chmod(filepath.Join(dir, "release.key"), 0o644); err != nil {
		t.Fatal(err)
	}
	if err := serve(t.Context(), options{dir: dir, listen: "127.0.0.1:0"}, &log); err == nil || !strings.Contains(err.Error(), "chmod 600") {
		t.Errorf("readable release key: %v", err)
	}
}

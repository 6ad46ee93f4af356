package initramfs

import (
	"bytes"
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"log"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"

	"github.com/u-root/gobusybox/src/pkg/bb"
	"github.com/u-root/gobusybox/src/pkg/bb/findpkg"
	"github.com/u-root/gobusybox/src/pkg/golang"
)

// buildBusybox compiles init and the commands into one static binary.
//
// gobusybox only writes the sources here. It would build them itself, outside a
// module, where Go falls back to the runtime defaults of Go 1.20 (weaker TLS
// and X.509 rules among them); so the main file gets a go:debug line first.
func buildBusybox(ctx context.Context, o *Options) ([]byte, error) {
	tmp, err := os.MkdirTemp("", "sealboot-busybox-")
	if err != nil {
		return nil, fmt.Errorf("initramfs: making a work directory: %w", err)
	}
	defer os.RemoveAll(tmp)
	goroot, language, err := toolchain(ctx, o.Source)
	if err != nil {
		return nil, err
	}
	output := o.Log
	if output == nil {
		output = io.Discard
	}

	arch := cmp.Or(o.Arch, "amd64")
	gopath := filepath.Join(tmp, "gopath")
	if err := o.generate(ctx, tmp, arch, goroot, output); err != nil {
		return nil, err
	}
	mainDir := filepath.Join(gopath, "src/bb.u-root.com/bb")
	if err := setLanguage(filepath.Join(mainDir, "main.go"), language); err != nil {
		return nil, err
	}
	binary := filepath.Join(tmp, "bb")
	cmd := exec.CommandContext(ctx, filepath.Join(goroot, "bin/go"), "build", "-trimpath", "-buildvcs=false",
		"-ldflags=-s -w -buildid=", "-o", binary, ".")
	cmd.Dir = mainDir
	cmd.Env = append(os.Environ(), "GO111MODULE=off", "GOPATH="+gopath, "GOFLAGS=", "GOTOOLCHAIN=local", "GOEXPERIMENT=",
		"CGO_ENABLED=0", "GOOS=linux", "GOARCH="+arch, "GOAMD64=v1")
	// Killed alone, the go command would leave its compilers to us.
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	cmd.Cancel = func() error { return syscall.Kill(-cmd.Process.Pid, syscall.SIGKILL) }
	var diag bytes.Buffer
	cmd.Stdout = output
	cmd.Stderr = io.MultiWriter(output, &diag)
	if err := cmd.Run(); err != nil {
		return nil, fmt.Errorf("initramfs: compiling the busybox: %w: %s", err, strings.TrimSpace(diag.String()))
	}
	content, err := os.ReadFile(binary)
	if err != nil {
		return nil, fmt.Errorf("initramfs: reading the busybox: %w", err)
	}
	return content, nil
}

// generate writes the busybox's sources below tmp/gopath.
//
// It takes seconds, and gobusybox knows no context. So when ctx ends, it is left
// behind, and tmp is removed under its feet: by way of a descriptor, nothing can be
// made in a directory that was removed, and the first write ends it.
func (o *Options) generate(ctx context.Context, tmp, arch, goroot string, output io.Writer) error {
	source, err := filepath.Abs(o.Source)
	if err != nil {
		return fmt.Errorf("initramfs: source directory: %w", err)
	}
	dir, err := os.Open(tmp)
	if err != nil {
		return fmt.Errorf("initramfs: work directory: %w", err)
	}
	var said bytes.Buffer // no one else's: it may still be written to when we have returned
	done := make(chan error, 1)
	go func() {
		defer dir.Close()
		done <- bb.BuildBusybox(log.New(&said, "", 0), &bb.Opts{
			Env: golang.Default(golang.DisableCGO(), golang.WithGOOS("linux"), golang.WithGOARCH(arch),
				golang.WithGOROOT(goroot), golang.WithGO111MODULE("on"), golang.WithWorkingDir(source)),
			LookupEnv:    &findpkg.Env{},
			CommandPaths: o.commandPaths(source),
			GenSrcDir:    fmt.Sprintf("/proc/self/fd/%d/gopath", dir.Fd()),
			GenerateOnly: true,
		})
	}()
	select {
	case err = <-done:
		_, _ = said.WriteTo(output) // a courtesy
	case <-ctx.Done():
		err = errors.Join(context.Cause(ctx), removeBusy(tmp))
	}
	if err != nil {
		return fmt.Errorf("initramfs: writing the busybox sources: %w", err)
	}
	return nil
}

// removeBusy removes dir although somebody still writes to it.
func removeBusy(dir string) (err error) {
	for range 100 {
		if err = os.RemoveAll(dir); err == nil {
			return nil
		}
	}
	return err
}

// commandPaths returns what gobusybox builds: absolute directories and import
// paths, init first.
func (o *Options) commandPaths(source string) []string {
	paths := []string{initCommand}
	for _, c := range o.Commands {
		if strings.HasPrefix(c, "./") {
			c = filepath.Join(source, c)
		}
		paths = append(paths, c)
	}
	return paths
}

// toolchain asks the go command that governs the module at dir for its root
// directory and its language version, for example "go1.26".
func toolchain(ctx context.Context, dir string) (goroot, language string, err error) {
	cmd := exec.CommandContext(ctx, "go", "env", "GOROOT", "GOVERSION")
	cmd.Dir = dir
	out, err := cmd.Output()
	if err != nil {
		return "", "", fmt.Errorf("initramfs: asking the go command for its root (is Go installed, is %s a directory?): %w", dir, err)
	}
	fields := strings.Fields(string(out))
	if len(fields) < 2 {
		return "", "", fmt.Errorf("initramfs: go env answered %q", out)
	}
	parts := strings.SplitN(fields[1], ".", 3)
	if len(parts) < 2 {
		return "", "", fmt.Errorf("initramfs: Go version %q is not a release", fields[1])
	}
	return fields[0], parts[0] + "." + parts[1], nil
}

// setLanguage makes the program at path use the runtime defaults of language.
func setLanguage(path, language string) error {
	content, err := os.ReadFile(path)
	if err != nil {
		return fmt.Errorf("initramfs: reading the busybox main file: %w", err)
	}
	content = append([]byte("//go:debug default="+language+"\n\n"), content...)
	if err := os.WriteFile(path, content, 0o644); err != nil {
		return fmt.Errorf("initramfs: writing the busybox main file: %w", err)
	}
	return nil
}

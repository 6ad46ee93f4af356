package board

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"

	"github.com/sealboot/sealboot/board/kernel"
	"github.com/sealboot/sealboot/boot/image/uki"
	"github.com/sealboot/sealboot/initramfs"
	"github.com/sealboot/sealboot/initramfs/esp"
	"github.com/sealboot/sealboot/measure/strict"
)

// Budget is the most that kernel and initramfs may take together, in bytes, as
// compressed in the UKI: 6.5 MiB, which leaves room for firmware in 16 MiB of flash.
const Budget = 13 << 20 / 2

// ErrBudget means that a loader has grown too big.
var ErrBudget = errors.New("board: over the size budget")

// The names of the files that Build makes in its directory.
const (
	UKIFile      = "loader.efi"
	ESPFile      = "loader.img"
	ManifestFile = "loader.json"
)

// Options says what to build.
type Options struct {
	// Initramfs is what goes into the initramfs; see initramfs.Loader.
	Initramfs initramfs.Options
	// Cmdline replaces the board's command line when not empty.
	Cmdline string
	// Out is the directory that receives the files; created when missing.
	Out string
	// Step is told what is being done, in a few words; nil for no one.
	Step func(string)
	// Log receives the output of compilers; nil drops it.
	Log io.Writer
}

// File is one part of a loader, by content.
type File struct {
	Size   int64  `json:"size"` // bytes
	SHA256 string `json:"sha256"`
}

// Loader describes a finished loader; the same is kept in ManifestFile.
type Loader struct {
	Board     string `json:"board"`
	Version   string `json:"version,omitempty"` // of the loader, for people
	Release   string `json:"kernelRelease"`
	Cmdline   string `json:"cmdline"`
	UKI       File   `json:"uki"`
	Kernel    File   `json:"kernel"`
	Initramfs File   `json:"initramfs"`

	dir string
}

// UKIPath is the path of the UKI.
func (l *Loader) UKIPath() string { return filepath.Join(l.dir, UKIFile) }

// ESPPath is the path of the disk image that firmware boots the UKI from.
func (l *Loader) ESPPath() string { return filepath.Join(l.dir, ESPFile) }

// CheckBudget returns ErrBudget, with the numbers, when the loader is too big.
func (l *Loader) CheckBudget() error {
	if total := l.Kernel.Size + l.Initramfs.Size; total > Budget {
		return fmt.Errorf("%w: kernel %d + initramfs %d = %d bytes, %d more than %d", ErrBudget,
			l.Kernel.Size, l.Initramfs.Size, total, total-Budget, Budget)
	}
	return nil
}

// Build makes the loader of board b: kernel (or its copy in the cache), initramfs,
// UKI and boot disk. The same inputs give the same bytes.
func (b Board) Build(ctx context.Context, o Options) (*Loader, error) {
	step := o.Step
	if step == nil {
		step = func(string) {}
	}
	config, err := b.Kernel()
	if err != nil {
		return nil, err
	}
	config.Log = o.Log
	step("kernel for " + b.Name + " (minutes the first time, then from the cache)")
	k, err := kernel.Build(ctx, config)
	if err != nil {
		return nil, err
	}
	image, err := os.ReadFile(k.Image)
	if err != nil {
		return nil, fmt.Errorf("board: kernel: %w", err)
	}
	step("initramfs")
	o.Initramfs.Arch, o.Initramfs.Log = b.Arch, o.Log
	ramfs, err := initramfs.Build(ctx, o.Initramfs)
	if err != nil {
		return nil, err
	}
	step("UKI and boot disk")
	l := &Loader{Board: b.Name, Version: o.Initramfs.Version, Release: k.Release, Cmdline: b.Cmdline, Kernel: describe(image), Initramfs: describe(ramfs), dir: o.Out}
	if o.Cmdline != "" {
		l.Cmdline = o.Cmdline
	}
	unified, err := b.unify(l, image, ramfs)
	if err != nil {
		return nil, err
	}
	l.UKI = describe(unified)
	return l, l.write(b.BootPath, unified)
}

// unify puts the parts behind the stub. Nothing else is in a UKI: each section is
// measured, and each is a thing to predict.
func (b Board) unify(l *Loader, image, ramfs []byte) ([]byte, error) {
	stub, err := os.ReadFile(b.Stub)
	if err != nil {
		return nil, fmt.Errorf("board: EFI stub (package systemd-boot-efi): %w", err)
	}
	var out bytes.Buffer
	err = uki.Build(&out, stub, []uki.Content{
		{Name: ".osrel", Data: []byte("ID=sealboot\nNAME=Sealboot\nPRETTY_NAME=\"Sealboot on " + b.Name + "\"\n")},
		{Name: ".cmdline", Data: []byte(l.Cmdline)},
		{Name: ".uname", Data: []byte(l.Release)},
		{Name: ".initrd", Data: ramfs},
		{Name: ".linux", Data: image},
	})
	if err != nil {
		return nil, fmt.Errorf("board: building the UKI: %w", err)
	}
	return out.Bytes(), nil
}

// write puts the files into the loader's directory, the manifest last: a
// directory with a manifest is complete.
func (l *Loader) write(bootPath string, unified []byte) error {
	if err := os.MkdirAll(l.dir, 0o755); err != nil {
		return fmt.Errorf("board: output directory: %w", err)
	}
	if err := os.Remove(filepath.Join(l.dir, ManifestFile)); err != nil && !errors.Is(err, os.ErrNotExist) {
		return fmt.Errorf("board: removing the old manifest: %w", err)
	}
	if err := os.WriteFile(l.UKIPath(), unified, 0o644); err != nil {
		return fmt.Errorf("board: writing the UKI: %w", err)
	}
	if err := esp.Create(l.ESPPath(), map[string][]byte{bootPath: unified}); err != nil {
		return err
	}
	manifest, err := json.MarshalIndent(l, "", "  ")
	if err != nil {
		return fmt.Errorf("board: manifest: %w", err)
	}
	if err := os.WriteFile(filepath.Join(l.dir, ManifestFile), append(manifest, '\n'), 0o644); err != nil {
		return fmt.Errorf("board: writing the manifest: %w", err)
	}
	return nil
}

// Open returns the loader that Build left in dir, after checking that its UKI
// is still the one that was built.
func Open(dir string) (*Loader, error) {
	manifest, err := os.ReadFile(filepath.Join(dir, ManifestFile))
	if err != nil {
		return nil, fmt.Errorf("board: no finished loader in %s: %w", dir, err)
	}
	l := &Loader{dir: dir}
	if err := strict.Decode(manifest, l); err != nil {
		return nil, fmt.Errorf("board: manifest of the loader in %s: %w", dir, err)
	}
	unified, err := os.ReadFile(l.UKIPath())
	if err != nil {
		return nil, fmt.Errorf("board: %w", err)
	}
	if got := describe(unified); got != l.UKI {
		return nil, fmt.Errorf("board: %s is not the file that was built: %d bytes with SHA-256 %s, want %d with %s",
			l.UKIPath(), got.Size, got.SHA256, l.UKI.Size, l.UKI.SHA256)
	}
	return l, nil
}

func describe(content []byte) File {
	sum := sha256.Sum256(content)
	return File{Size: int64(len(content)), SHA256: hex.EncodeToString(sum[:])}
}

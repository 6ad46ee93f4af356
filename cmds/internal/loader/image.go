package loader

import (
	"context"
	"fmt"
	"runtime"
	"runtime/debug"
	"time"

	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/sealboot/sealboot/boot/base/platform"
	"github.com/sealboot/sealboot/boot/config"
	"github.com/sealboot/sealboot/boot/flow"
	"github.com/sealboot/sealboot/boot/image/kexec"
	"github.com/sealboot/sealboot/boot/image/osimage"
	"github.com/sealboot/sealboot/boot/machine/console"
)

// A KexecFunc gives a complete image to the kernel.
type KexecFunc func(ctx context.Context, p kexec.Payload) error

// bootable is an osimage.Image for the flow.
type bootable struct {
	*osimage.Image
	load KexecFunc
	info func(text string) // tells what loading took
}

var _ flow.Image = bootable{}

// Load appends the handover to the initrd and gives all of it to the kernel.
func (i bootable) Load(ctx context.Context, h flow.Handover) error {
	c, err := handoverContent(h)
	if err != nil {
		return err
	}
	// What fetching needed is garbage by now. Pools let go of it in the second
	// collection.
	runtime.GC()
	debug.FreeOSMemory()
	began, peak := time.Now(), watchMemory(memoryUsed)
	err = i.load(ctx, kexec.Payload{Kernel: i.Kernel, Initrd: i.Initrd, Cmdline: i.Cmdline, Handover: c.Write})
	if most, perr := peak(); err == nil && perr == nil {
		i.info(fmt.Sprintf("kernel loaded in %.1f s, peak memory %d MiB", time.Since(began).Seconds(), most>>20))
	}
	return err
}

// wrap makes a flow's image of what a source has verified.
func (m *Machine) wrap(i *osimage.Image) flow.Image {
	for _, note := range i.Notes {
		m.o.Console.Info(note)
	}
	load := m.o.Kexec
	if load == nil {
		load = new(kexec.Loader).Load
	}
	return bootable{i, load, m.o.Console.Info}
}

// options are the site's wishes for an image.
func (m *Machine) options(src *config.Source) (osimage.Options, error) {
	at, err := platformOf(src)
	if err != nil {
		return osimage.Options{}, err
	}
	show := func(what string) func(done, total int64) {
		return func(done, total int64) {
			m.o.Console.Progress(console.Progress{Done: done, Total: total, What: what})
		}
	}
	return osimage.Options{
		Cmdline:  m.o.Site.Cmdline,
		Arch:     at.Architecture,
		DryRun:   m.dry,
		Progress: show("unpacked"),
		Checked:  show("checked"),
	}, nil
}

// platformOf is the platform of a source; zero is this machine's.
func platformOf(src *config.Source) (ocispec.Platform, error) {
	if src.Platform == "" {
		return ocispec.Platform{}, nil
	}
	return platform.Parse(src.Platform)
}

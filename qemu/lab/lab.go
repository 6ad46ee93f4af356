// Package lab is the whole of Sealboot on one machine: a site with its attestd,
// a registry, a loader built for the site, an operating system made from a
// Containerfile, and a virtual machine with firmware and a TPM that boots it.
//
// Nothing in it is faked and nothing is a shortcut: the lab runs the commands
// that an operator would type, against real servers, in the order in which a
// fleet would be set up. What is judged was predicted before the machine was
// first switched on. What a run leaves in its directory (quote, logs, keys,
// consoles) can be checked with other tools.
package lab

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"time"

	"golang.org/x/sys/unix"

	"github.com/sealboot/sealboot/qemu"
)

// Options says what to run. Source and Dir are needed.
type Options struct {
	// Source is the directory of Sealboot's sources.
	Source string
	// Dir receives everything that the run makes; what a former run left there
	// is removed.
	Dir string
	// Tamper changes one thing after everything was predicted; the run must
	// then fail. Empty means that nothing is changed.
	Tamper Tamper
	// Boot is where the machine boots from, in this order; empty means FromRegistry.
	Boot []BootSource
	// Boots is how often the machine is booted; 0 means twice.
	Boots int
	// Banks are the TPM's active PCR banks in swtpm's notation; empty means "sha256".
	Banks string
	// Memory of the machine in MiB; 0 means 3072.
	Memory int
	// Out receives stages, the machine's console and the final table.
	Out io.Writer
}

// BootSource is where the machine's image comes from.
type BootSource string

// The sources of an image.
const (
	FromRegistry BootSource = "oci"
	FromTUF      BootSource = "tuf"
	FromMedia    BootSource = "media"  // an OCI layout on a volume
	FromBundle   BootSource = "bundle" // an offline TUF bundle on a volume
)

// BootSources lists them all.
func BootSources() []BootSource {
	return []BootSource{FromRegistry, FromTUF, FromMedia, FromBundle}
}

// Lab is a site and its machine. It is made by Prepare, and Close ends all that it runs.
type Lab struct {
	o      Options
	own    *os.File // held as long as the directory is ours
	stages *stages

	bin      string // directory of the built commands
	site     string // attestd's directory
	siteJSON string
	loader   string // directory of the loader
	registry int    // port
	attestd  int    // port
	admin    int    // port of the status page
	unit     string // the machine's directory below Dir; empty for the first
	tpm      qemu.TPMOptions
	watchdog int    // of the site config, in seconds
	imageKey []byte // public key (PKIX) that must have signed images; nil asks for none

	server, images *service
	web            *fileServer
	middle         *mitm
	facts          facts
}

// guestHost is this machine's loopback as the guest sees it.
const guestHost = "10.0.2.2"

func (l *Lab) path(elem ...string) string {
	return filepath.Join(append([]string{l.o.Dir}, elem...)...)
}

// unitPath is a file that belongs to one machine of the site.
func (l *Lab) unitPath(elem ...string) string {
	return l.path(append([]string{l.unit}, elem...)...)
}

// Prepare sets the site up, as far as a fleet is before its first machine is
// switched on: everything is built, published, predicted and enrolled.
func Prepare(ctx context.Context, o Options) (_ *Lab, err error) {
	if len(o.Boot) == 0 {
		o.Boot = []BootSource{FromRegistry}
	}
	o.Boots = cmp.Or(o.Boots, 2)
	o.Memory = cmp.Or(o.Memory, 3072)
	if o.Out == nil {
		o.Out = io.Discard
	}
	for _, dir := range []*string{&o.Dir, &o.Source} {
		if *dir, err = filepath.Abs(*dir); err != nil {
			return nil, err
		}
	}
	own, err := claim(o.Dir)
	if err != nil {
		return nil, err
	}
	l := &Lab{o: o, own: own, stages: newStages(o.Out)}
	l.bin, l.site, l.loader, l.siteJSON = l.path("bin"), l.path("site"), l.path("loader"), l.path("site.json")
	l.tpm = qemu.TPMOptions{CA: l.path("tpm-ca"), Banks: o.Banks}
	defer func() {
		if err != nil {
			l.Close()
		}
	}()
	defer l.stages.sayWhenStopped(ctx)()
	steps := []struct {
		name string
		do   func(context.Context) error
	}{
		{"tools", l.buildTools},
		{"machine's TPM", l.makeTPM},
		{"site", l.makeSite},
		{"operating system", l.makeImage},
		{"loader", l.buildLoader},
		{"reference boot", l.recordProfile},
		{"prediction", l.predict},
		{"enrolment", l.enrol},
	}
	for _, s := range steps {
		if err := l.stages.run(s.name, func() error { return s.do(ctx) }); err != nil {
			return nil, err
		}
	}
	return l, nil
}

// claim makes dir an empty directory that is ours until the returned file is
// closed. It refuses to empty one that no lab has made or that another one uses.
func claim(dir string) (*os.File, error) {
	const mark = ".sealboot-lab"
	entries, err := os.ReadDir(dir)
	if err != nil && !errors.Is(err, os.ErrNotExist) {
		return nil, err
	}
	_, err = os.Stat(filepath.Join(dir, mark))
	if err != nil && len(entries) > 0 {
		return nil, fmt.Errorf("%s is not empty and was not made by a lab: choose another directory", dir)
	}
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return nil, err
	}
	own, err := os.OpenFile(filepath.Join(dir, mark), os.O_CREATE|os.O_RDWR, 0o644)
	if err != nil {
		return nil, err
	}
	if err := unix.Flock(int(own.Fd()), unix.LOCK_EX|unix.LOCK_NB); err != nil {
		own.Close()
		return nil, fmt.Errorf("%s is in use by another run (%w): wait for its end, or choose another directory (make run LAB=DIR)", dir, err)
	}
	for _, e := range entries {
		if e.Name() != mark {
			err = errors.Join(err, os.RemoveAll(filepath.Join(dir, e.Name())))
		}
	}
	if err != nil {
		own.Close()
		return nil, err
	}
	return own, nil
}

// Close ends every process and server of the lab. It may be called again.
func (l *Lab) Close() {
	if l.middle != nil {
		l.middle.stop()
	}
	if l.web != nil {
		l.web.stop()
	}
	for _, s := range []*service{l.server, l.images} {
		if s != nil {
			s.Stop(5 * time.Second)
		}
	}
	l.own.Close()
}

// Run does everything: Prepare, the boots, and the table at the end.
func Run(ctx context.Context, o Options) (*Lab, error) {
	l, err := Prepare(ctx, o)
	if err != nil {
		return nil, err
	}
	if err := l.boots(ctx); err != nil {
		l.Close()
		return nil, err
	}
	return l, nil
}

// boots switches the machine on as often as was asked for.
func (l *Lab) boots(ctx context.Context) error {
	defer l.stages.sayWhenStopped(ctx)()
	if l.o.Tamper != "" {
		if err := l.stages.run("tampering with "+string(l.o.Tamper), func() error { return l.tamper(ctx) }); err != nil {
			return err
		}
	}
	for n := 1; n <= l.o.Boots; n++ {
		err := l.stages.run(fmt.Sprintf("boot %d", n), func() error { return l.bootOnce(ctx, n) })
		if err != nil {
			return err
		}
	}
	if err := l.stages.run("independent verification", func() error { return l.checkWithOtherTools(ctx) }); err != nil {
		return err
	}
	l.summary()
	return nil
}

// StatusPage is the address of attestd's page for people.
func (l *Lab) StatusPage() string { return fmt.Sprintf("http://127.0.0.1:%d/", l.admin) }

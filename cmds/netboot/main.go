// netboot is what the loader's init starts: it boots the operating system that
// the site config names, and nothing else ever runs after it.
//
// It is two processes. The worker does the boot: it talks to the network and
// holds the secrets. The supervisor does nothing that can fail: it waits for
// the worker's exit code and does what that says. Whatever else becomes of the
// worker - a panic, a crash, the kernel's memory killer - means that the
// machine is reset.
//
// It takes no arguments: everything comes from the site config in the
// initramfs.
package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"time"

	"golang.org/x/sys/unix"

	"github.com/sealboot/sealboot/boot/config"
	"github.com/sealboot/sealboot/boot/flow"
	"github.com/sealboot/sealboot/boot/machine/console"
	"github.com/sealboot/sealboot/cmds/internal/loader"
)

// workerArg makes this program the worker.
const workerArg = "worker"

func main() {
	switch args := os.Args[1:]; {
	case len(args) == 1 && args[0] == workerArg:
		code := exitCode(work())
		// The last word, even if a thread in a driver keeps the process.
		_, _ = os.Stdout.Close(), os.Stderr.Close()
		os.Exit(code)
	case len(args) == 0 && os.Getuid() == 0 && loader.InInitramfs():
		supervise()
	default:
		fmt.Fprintln(os.Stderr, "netboot: takes no arguments and runs only in a loader's initramfs, because it resets the machine when it fails; try ociboot --dry-run")
		os.Exit(2)
	}
}

// work is one boot. Its outcome is for the supervisor.
func work() flow.Outcome {
	site, raw, err := config.ReadSite(config.SitePath)
	if err != nil {
		return bad(err)
	}
	second, drain := openJSON(site.Console.JSON)
	defer drain()
	con := console.New(console.Options{Out: os.Stdout, Lines: site.Console.Lines, JSON: second})
	con.Title(site.Name, loader.Version())
	m, err := loader.New(loader.Options{Site: site, SiteRaw: raw, Console: con, Version: loader.Version()})
	if err != nil {
		return bad(err)
	}
	defer m.Close()
	b, err := m.Boot()
	if err != nil {
		return bad(err)
	}
	outcome, err := b.Run(context.Background())
	end := outcome.String()
	if err == nil && outcome == flow.Kexec {
		end = "starting the operating system"
	}
	con.End(end)
	return outcome
}

// bad ends a boot that never began.
func bad(err error) flow.Outcome {
	console.New(console.Options{Out: os.Stdout}).Fail(&flow.Failure{Stage: flow.StagePrepare, Err: err}, "reset; build the loader image again")
	return flow.Reboot
}

// openJSON opens the second channel. A machine without it boots all the same, and
// so does one where no one reads it.
func openJSON(path string) (second io.Writer, drain func()) {
	if path == "" {
		return nil, func() {}
	}
	f, err := os.OpenFile(path, os.O_WRONLY|unix.O_NOCTTY|unix.O_NONBLOCK, 0)
	if err != nil {
		return nil, func() {}
	}
	r := console.NewRelay(f)
	return r, func() { r.Drain(time.Second) }
}

// Exit codes of the worker. They are far from what a crash could give, and 0
// is none of them.
const firstCode = 64

func exitCode(o flow.Outcome) int { return firstCode + int(o) }

var errWorker = errors.New("the worker died")

// outcomeOf is the inverse of exitCode; everything else is a crash.
func outcomeOf(code int) (flow.Outcome, error) {
	switch o := flow.Outcome(code - firstCode); o {
	case flow.Reboot, flow.Poweroff, flow.Shell, flow.Kexec:
		return o, nil
	}
	return flow.Reboot, errWorker
}

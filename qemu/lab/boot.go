package lab

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"path/filepath"
	"regexp"
	"strings"
	"sync"
	"time"

	"github.com/sealboot/sealboot/board"
	"github.com/sealboot/sealboot/qemu"
)

// Boot is what one boot of the machine showed.
type Boot struct {
	Events  []ConsoleEvent // of the loader, from its second channel
	Console string         // everything that was printed
	Exit    qemu.Exit      // how the machine ended
	Took    time.Duration
}

// ConsoleEvent is one line of the loader's second channel; see boot/machine/console.
type ConsoleEvent struct {
	Stage string  `json:"stage"`
	Event string  `json:"event"`
	Since float64 `json:"since"`
	Text  string  `json:"text"`
	Next  string  `json:"next"`
	What  string  `json:"what"`
	Done  int64   `json:"done"`
	Took  float64 `json:"took"`
}

// Failed is the last failure that the loader reported, or nil.
func (b *Boot) Failed() *ConsoleEvent {
	for i := len(b.Events) - 1; i >= 0; i-- {
		if b.Events[i].Event == "failed" {
			return &b.Events[i]
		}
	}
	return nil
}

// Demo are the lines that the operating system's demo printed.
func (b *Boot) Demo() []string {
	var lines []string
	for _, m := range demoLine.FindAllStringSubmatch(b.Console, -1) {
		lines = append(lines, strings.TrimSpace(m[1]))
	}
	return lines
}

// OK tells whether the operating system did all that the demo asks of it.
func (b *Boot) OK() bool {
	lines := b.Demo()
	return len(lines) > 0 && lines[len(lines)-1] == "OK"
}

var demoLine = regexp.MustCompile(`sealboot-demo: ([^\r\n]*)`)

// Machine is the lab's machine, ready to be switched on.
func (l *Lab) Machine() qemu.Config {
	c := qemu.Config{
		Dir: l.unitPath("vm"), Memory: l.o.Memory, TPM: l.tpmDir(), NoReboot: true,
		Boot:  filepath.Join(l.loader, board.ESPFile),
		Disks: []qemu.Disk{{Path: l.emptyDisk(l.dataDisk()), Serial: dataSerial}},
	}
	if l.facts.media != "" {
		c.Disks = append(c.Disks, qemu.Disk{Path: l.facts.media, ReadOnly: true})
	}
	return c
}

// Boot switches a machine on and waits until it is off again.
func (l *Lab) Boot(ctx context.Context, c qemu.Config) (*Boot, error) {
	return l.bootWith(ctx, c, func(*qemu.VM) error { return nil })
}

// bootWith also lets somebody at the machine while it is on.
func (l *Lab) bootWith(ctx context.Context, c qemu.Config, at func(*qemu.VM) error) (*Boot, error) {
	if c.Console == nil {
		c.Console = l.stages.plain()
	}
	began := time.Now()
	vm, err := qemu.Start(ctx, c)
	if err != nil {
		return nil, err
	}
	defer vm.Stop()
	var b Boot
	var reader sync.WaitGroup
	reader.Go(func() { b.Events = readEvents(vm.Serial()) })
	done := at(vm)
	within := 40 * time.Second
	if vm.Accel() == qemu.KVM {
		within = 200 * time.Second // a watchdog's minutes are as long on a fast processor
	}
	exit, err := vm.Wait(ctx, within)
	vm.Stop() // which closes the channel
	reader.Wait()
	b.Console, b.Took, b.Exit = vm.Output(), time.Since(began), exit
	if ctx.Err() != nil {
		return &b, context.Cause(ctx)
	}
	if err := errors.Join(done, err); err != nil {
		return &b, err
	}
	if exit.Panic != "" {
		return &b, fmt.Errorf("kernel panic: %s", exit.Panic)
	}
	return &b, nil
}

func readEvents(r io.Reader) []ConsoleEvent {
	var all []ConsoleEvent
	lines := bufio.NewScanner(r)
	for lines.Scan() {
		var e ConsoleEvent
		if json.Unmarshal(lines.Bytes(), &e) == nil {
			all = append(all, e)
		}
	}
	return all
}

// ErrLocked means that the operating system ran and did not open its volume.
var ErrLocked = errors.New("the operating system did not unlock the site")

// RefusedError means that the loader ended the boot and said why.
type RefusedError struct {
	Stage, Reason string // as the loader put it
	Console       string // where all of it is
}

func (e *RefusedError) Error() string {
	return fmt.Sprintf("the loader ended the boot in stage %s: %s; the console is in %s", e.Stage, e.Reason, e.Console)
}

// RefusedAsItMust tells whether err is what tampering with t has to end in.
func RefusedAsItMust(err error, t Tamper) bool {
	stage, reason := t.Refusal()
	var refused *RefusedError
	return errors.As(err, &refused) && refused.Stage == stage && strings.Contains(refused.Reason, reason)
}

// bootOnce boots the machine and judges what it showed.
func (l *Lab) bootOnce(ctx context.Context, n int) error {
	b, err := l.Boot(ctx, l.Machine())
	if err != nil {
		return fmt.Errorf("%w; the console is in %s", err, l.unitPath("vm", "console.log"))
	}
	l.facts.boots = append(l.facts.boots, b)
	if f := b.Failed(); f != nil && !b.OK() {
		return &RefusedError{Stage: f.Stage, Reason: f.Text, Console: l.unitPath("vm", "console.log")}
	}
	if !b.OK() {
		last := "it printed nothing"
		if lines := b.Demo(); len(lines) > 0 {
			last = lines[len(lines)-1]
		}
		return fmt.Errorf("%w: %s; the console is in %s", ErrLocked, last, l.unitPath("vm", "console.log"))
	}
	if want := fmt.Sprintf("boots so far: %d", n); !strings.Contains(strings.Join(b.Demo(), "\n"), want) {
		return fmt.Errorf("%w: the volume does not show what earlier boots wrote, want %q", ErrLocked, want)
	}
	return nil
}

// plain passes a console on by lines, without the sequences with which firmware paints.
func (s *stages) plain() io.Writer {
	return &lines{to: func(line string) {
		if line = strings.TrimRight(qemu.Plain(line), " "); line != "" {
			fmt.Fprintf(s, "           | %s\n", line)
		}
	}}
}

// Package flow is one boot, from the host config to kexec: what is done in
// which order, and what happens when a step fails.
//
// The order is the security of the whole. An image is fetched and verified
// before anything is measured, so that a bad mirror never ends a boot. Once
// PCR 12 was extended there is one image and no other: a second on top would
// give PCR values that no one predicted. Secrets are released after the
// measurement and before the cap; after the cap no one can obtain any in this
// boot. Whatever fails in between leads to a reset, never to a shell.
//
// The steps themselves are behind small interfaces, so that every rule here is
// tested without a TPM, a network or a kernel.
package flow

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/sealboot/sealboot/measure/event"
)

// A Stage is a part of the boot, as people and reports name it.
type Stage string

const (
	StagePrepare Stage = "prepare" // TPM and host config
	StageNetwork Stage = "network"
	StageHello   Stage = "hello" // signed time
	StageFetch   Stage = "fetch"
	StageFloor   Stage = "floor" // rollback floor
	StageMeasure Stage = "measure"
	StageAttest  Stage = "attest"
	StageLoad    Stage = "load" // handover and kexec_file_load
	StageKexec   Stage = "kexec"
)

// A Failure is the end of a stage.
type Failure struct {
	Stage Stage
	Err   error
}

func (f *Failure) Error() string { return fmt.Sprintf("%s: %v", f.Stage, f.Err) }
func (f *Failure) Unwrap() error { return f.Err }

// ErrDenied is matched by an [Attester]'s error when attestd has judged the
// evidence and refused: asking again would change nothing.
var ErrDenied = errors.New("attestd refuses this machine")

// An Outcome is what the caller must do when [Boot.Run] returns. There is
// nothing else that it may do.
type Outcome int

const (
	Reboot   Outcome = iota // reset the machine: also the answer to every doubt
	Poweroff                // switch it off
	Shell                   // run a shell; the shell marker is in PCR 12
	Kexec                   // the kernel is loaded and everything is wiped: execute it
)

func (o Outcome) String() string {
	switch o {
	case Poweroff:
		return "poweroff"
	case Shell:
		return "shell"
	case Kexec:
		return "kexec"
	}
	return "reboot"
}

// An Image is complete and verified: nothing about it changes any more.
type Image interface {
	// Records is everything that goes into the image PCR, in order.
	Records() ([]event.Record, error)
	// Load puts the handover into the image and gives it to the kernel
	// (kexec_file_load). It keeps no copy of what is in h.
	Load(ctx context.Context, h Handover) error
	Close() error
}

// A Handover is what the operating system gets from the loader.
type Handover struct {
	Log      []byte  // the CEL, the cap's record already in it
	Firmware []byte  // the platform firmware's event log
	Release  Release // nil without attestd
}

// A Release is what attestd gave. Flow does nothing with it but hand it over
// and wipe it.
type Release interface {
	Wipe()
}

// A Candidate is an image that a source vouches for.
type Candidate struct {
	Image      Image
	Ref        string         // what was asked for, and its digest: for people
	Provenance []event.Record // why it may run
	Version    uint64         // that the image gives itself, for the rollback floor; 0 is unversioned
	Vouched    bool           // keys, a digest or TUF admit the image, and with it its version; else attestd alone judges it
	Trust      any            // what the source proved, for a Floor that understands it
}

// A Source is one place to boot from.
type Source interface {
	String() string
	// NeedsNetwork is false for media in the machine.
	NeedsNetwork() bool
	// Fetch fetches and verifies. It ends by itself when nothing arrives.
	Fetch(ctx context.Context) (*Candidate, error)
}

// A Hello is what attestd signed for this boot before anything was measured.
type Hello struct {
	Time           time.Time
	HealthyVersion uint64  // highest image version that was reported healthy
	RepairFloor    *uint64 // order to write a floor anew that is destroyed or shuts out the image
}

// An Attester is attestd as a boot sees it.
type Attester interface {
	Hello(ctx context.Context) (*Hello, error)
	// Attest makes one attempt, from challenge to acknowledgement. Its error
	// matches ErrDenied if another attempt is pointless.
	Attest(ctx context.Context, celLog, firmwareLog []byte) (Release, error)
	// Report tells attestd, if it can be reached, why a stage failed.
	Report(ctx context.Context, stage Stage, reason string) error
}

// A Measurer is the TPM.
type Measurer interface {
	// Ready opens the TPM and makes sure that the image PCR is still zero.
	Ready(ctx context.Context) error
	// Extend measures rec into all active banks, or fails.
	Extend(ctx context.Context, pcr int, rec event.Record) error
	// Abandon spoils a PCR for good, also after Extend has failed.
	Abandon(ctx context.Context, pcr int, rec event.Record) error
	// Log is the event log so far; LogWith as it will be after one more.
	Log() []byte
	LogWith(pcr int, rec event.Record) ([]byte, error)
	// FirmwareLog is the platform firmware's event log.
	FirmwareLog(ctx context.Context) ([]byte, error)
	// Flush leaves nothing of ours in the TPM.
	Flush(ctx context.Context) error
}

// A Floor refuses what is older than the machine has run.
type Floor interface {
	// Check refuses a candidate below the floor. hello may be nil.
	Check(ctx context.Context, c *Candidate, hello *Hello) error
	// Raise moves the floor as far as c and hello prove, locks it for this
	// boot, and returns the record of it. The image PCR is still zero.
	Raise(ctx context.Context, c *Candidate, hello *Hello) (event.Record, error)
}

// A Network is brought up before sources are tried, and taken down before kexec.
type Network interface {
	// Up checks host, the bytes of a host config or nil, and uses it. It is called
	// again after a round in which nothing could be booted, also if the last call
	// succeeded: then the network is made anew, since an address and a router that
	// somebody has handed out prove nothing about where they lead.
	Up(ctx context.Context, host []byte) error
	Down() error
}

// A Clock is as in boot/machine/clock.
type Clock interface {
	Signed(t time.Time) error
	Check() error
	Record() event.Record
}

// A Reporter is the console.
type Reporter interface {
	Stage(s Stage)                      // s begins, the one before has ended
	Info(text string)                   // what s found
	Warn(err error)                     // what s survived
	Fail(f *Failure, next string)       // s ended; next is what happens now
	Waiting(d time.Duration, round int) // a pause before the next round
}

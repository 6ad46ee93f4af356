//go:build vm

package lab

import (
	"bytes"
	"encoding/binary"
	"strings"
	"sync/atomic"
	"testing"

	"github.com/google/go-tpm/tpm2"

	"github.com/sealboot/sealboot/measure/event"
	"github.com/sealboot/sealboot/qemu"
)

// TestTPM boots with TPMs that do not work. One that is busy for a while is in TestSite.
func TestTPM(t *testing.T) {
	t.Run("busy for ever", func(t *testing.T) {
		l := machine(t)
		c := l.Machine()
		c.TPMFilter = fromTheLoader(func([]byte, func([]byte) ([]byte, error)) ([]byte, error) {
			return refusal(tpm2.TPMRCRetry), nil
		})
		b := switchOn(t, l, c)
		wantRefusal(t, b, "prepare", "TPM /dev/tpmrm0", "busy")
		wantEnd(t, b, poweroff)
		wantReleases(t, l, 0)
		wantBlank(t, l)
	})
	t.Run("hung", func(t *testing.T) {
		l := machine(t)
		c := l.Machine()
		over := make(chan struct{})
		defer close(over)
		c.TPMFilter = func(command []byte, pass func([]byte) ([]byte, error)) ([]byte, error) {
			const handle = 10 // its place in TPM2_PCR_Extend
			if commandCode(command) == tpm2.TPMCCPCRExtend && binary.BigEndian.Uint32(command[handle:]) == event.PCRImage {
				<-over // it never answers again, not even when the kernel shuts it down
			}
			return pass(command)
		}
		b, err := l.bootWith(t.Context(), c, func(*qemu.VM) error { return nil })
		if b == nil || err == nil || !strings.Contains(err.Error(), "Attempted to kill init") {
			t.Fatalf("the machine's end: %v; want the panic that resets it without its TPM", err)
		}
		t.Logf("the machine was on for %.1f s", b.Took.Seconds())
		wantRefusal(t, b, "measure", "TPM /dev/tpmrm0", "did not answer in time")
		if !strings.Contains(b.Console, "the kernel hangs in a device's shutdown") {
			t.Error("the console does not say why")
		}
		wantEnd(t, b, reset)
		wantReleases(t, l, 0)
		wantBlank(t, l)
	})
}

// A busyTPM refuses commands for now, which is a TPM's right, with each of the
// words for it before it runs the command.
type busyTPM struct {
	asked   int
	refused atomic.Int32
}

// mostRefused is when it has enough; later it would only slow the operating system down.
const mostRefused = 120

func (b *busyTPM) filter(command []byte, pass func([]byte) ([]byte, error)) ([]byte, error) {
	words := []tpm2.TPMRC{tpm2.TPMRCRetry, tpm2.TPMRCTesting, tpm2.TPMRCYielded}
	turn := b.asked % (len(words) + 1)
	b.asked++
	if b.refused.Load() == mostRefused || turn == len(words) {
		return pass(command)
	}
	b.refused.Add(1)
	switch commandCode(command) {
	case tpm2.TPMCCContextLoad, tpm2.TPMCCContextSave, tpm2.TPMCCFlushContext:
		turn = 0 // they are the kernel's own, and it knows this word alone
	}
	return refusal(words[turn]), nil
}

// fromTheLoader is a filter from the loader's first command on: it looks whether
// the image PCR is still zero, which no one before it does.
func fromTheLoader(f qemu.TPMFilter) qemu.TPMFilter {
	imagePCR := []byte{3, 0, 1 << (event.PCRImage - 8), 0} // as TPM2_PCR_Read selects it: three bytes, a bit for each PCR
	started := false
	return func(command []byte, pass func([]byte) ([]byte, error)) ([]byte, error) {
		started = started || commandCode(command) == tpm2.TPMCCPCRRead && bytes.HasSuffix(command, imagePCR)
		if !started {
			return pass(command)
		}
		return f(command, pass)
	}
}

// commandCode is in the header: a tag (2 bytes), the size (4), the code (4).
func commandCode(command []byte) tpm2.TPMCC {
	if len(command) < 10 {
		return 0
	}
	return tpm2.TPMCC(binary.BigEndian.Uint32(command[6:]))
}

// refusal is a response that has nothing but a code.
func refusal(code tpm2.TPMRC) []byte {
	b := binary.BigEndian.AppendUint16(nil, uint16(tpm2.TPMSTNoSessions))
	b = binary.BigEndian.AppendUint32(b, 10)
	return binary.BigEndian.AppendUint32(b, uint32(code))
}

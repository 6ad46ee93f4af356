package device

import (
	"errors"
	"fmt"
	"strings"

	"github.com/sealboot/sealboot/attest/wire"
)

var (
	// ErrUnreachable means that attestd gave no usable answer: no connection, a deadline, a server error. Try again.
	ErrUnreachable = errors.New("attestd cannot be reached")
	// ErrDenied means that attestd judged the evidence and refused. [Denied] carries the reasons.
	ErrDenied = errors.New("attestd denies")
	// ErrServerSignature means that an answer was not signed by the site's server key over this very exchange:
	// somebody else answered, or an old answer was replayed.
	ErrServerSignature = wire.ErrSignature
	// ErrProtocol means that an authentic or unsigned answer breaks the protocol.
	ErrProtocol = errors.New("answer of attestd breaks the protocol")
	// ErrTPM means that a TPM command failed or that a key could not be made.
	ErrTPM = errors.New("TPM failed")
	// ErrTPMPolicy means that the TPM refuses because PCRs are not what was approved: something was measured
	// between the quote and now, or the approval is for another state, another boot or another credential.
	ErrTPMPolicy = errors.New("TPM refuses: PCRs, credential or boot are not what was approved")
)

// Denied is attestd's refusal. It matches [ErrDenied].
type Denied struct {
	Code     wire.Code
	Decision string // names the record in attestd's audit log; may be empty
	Reasons  []wire.Reason
}

// Error has the reasons, which begin with their codes, on lines of their own.
func (d *Denied) Error() string {
	var b strings.Builder
	b.WriteString(ErrDenied.Error())
	if len(d.Reasons) == 0 {
		fmt.Fprintf(&b, ": %s", wire.Clean(string(d.Code)))
	}
	if d.Decision != "" {
		fmt.Fprintf(&b, " (decision %s)", d.Decision)
	}
	for _, r := range d.Reasons {
		fmt.Fprintf(&b, "\n%s", wire.Clean(r.String()))
	}
	return b.String()
}

// Is makes errors.Is(err, ErrDenied) true.
func (d *Denied) Is(target error) bool { return target == ErrDenied }

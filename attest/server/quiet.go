package server

import (
	"sync"
	"time"
)

// What anyone can make attestd write, with no more than the public key of a device's EK, has a pace of its own, or the
// audit log would grow as fast as he likes.
const (
	// A device that is denied boots again and again: the first denials are worth a record each, then one a minute
	// tells how many there were.
	denialRate, denialBurst = 1.0 / 60, 20
	// Evidence that looks good is released to, and recorded, whoever sent it; only the TPM can open what it gets. A
	// machine boots no more often than this. The pace is that of a device in one network, so that a stranger
	// elsewhere cannot use up what the device needs.
	releaseRate, releaseBurst = 1.0 / 5, 64
	// A report about attestation repeats the denial before it in fewer words.
	denialStands = 10 * time.Minute
)

// denials paces the records of denials.
type denials struct {
	*limiter[string]
	mu      sync.Mutex
	dropped map[string]int // denials of a device since its last record; empty for most
}

func newDenials() *denials {
	return &denials{limiter: newLimiter[string](denialRate, denialBurst), dropped: map[string]int{}}
}

// record tells whether a denial of this device is to be written, and counts it if not.
func (d *denials) record(device string, now time.Time) bool {
	if d.allow(device, now) {
		return true
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	if len(d.dropped) < maxBuckets || d.dropped[device] > 0 {
		d.dropped[device]++
	}
	return false
}

// take returns how many were not written since the last record, for the next.
func (d *denials) take(device string) int {
	d.mu.Lock()
	defer d.mu.Unlock()
	n := d.dropped[device]
	delete(d.dropped, device)
	return n
}

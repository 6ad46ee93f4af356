//go:build vm

package lab

import "testing"

// TestTamper changes one thing at a time. Each must end in its own refusal, and
// nothing may be released or formatted.
func TestTamper(t *testing.T) {
	// attestd grants what it judges to be good; where a man in the middle
	// spoils or replays the answer, it is the device that must refuse it.
	releases := map[Tamper]int{TamperM4: 2, TamperReplay: 1}
	for _, change := range Tampers() {
		t.Run(string(change), func(t *testing.T) {
			l := machine(t)
			tampered(t, l, change)
			b := switchOn(t, l, l.Machine())
			stage, reason := change.Refusal()
			wantRefusal(t, b, stage, reason)
			wantEnd(t, b, reset)
			wantReleases(t, l, releases[change])
			if change != TamperReplay { // whose first boot was a good one
				wantBlank(t, l)
			}
		})
	}
}

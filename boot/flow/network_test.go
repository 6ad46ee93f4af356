package flow_test

import (
	"slices"
	"testing"

	"github.com/sealboot/sealboot/boot/flow"
)

// TestNetworkAnew has a network lead nowhere, as one does that a foreign DHCP
// server has set up: only the third time that it is brought up do sources answer.
func TestNetworkAnew(t *testing.T) {
	for _, end := range []flow.End{flow.EndRetry, flow.EndReboot} {
		t.Run(string(end), func(t *testing.T) {
			w := new(world)
			ups, rounds := 0, 0
			w.fault = func(call string) error {
				switch call {
				case "up {}":
					ups++
				case "sleep":
					if rounds++; rounds > 200 {
						t.Fatalf("%d rounds, and the network was brought up %d times", rounds, ups)
					}
				case "hello", "fetch A", "fetch B":
					if ups < 3 {
						return errInjected
					}
				}
				return nil
			}
			b := w.boot()
			b.End, b.Rounds = end, 3
			if got, err := b.Run(t.Context()); got != flow.Kexec {
				t.Fatalf("Run = %v, %v\n%v", got, err, w.trace)
			}
			if ups != 3 || !slices.Contains(w.trace, "fetch A") {
				t.Errorf("the network was brought up %d times, want 3\n%v", ups, w.trace)
			}
			if n := count(w.trace, "read host"); n != 1 {
				t.Errorf("the host config was read and measured %d times", n)
			}
		})
	}
}

package netup

import (
	"errors"
	"fmt"
	"testing"

	"github.com/vishvananda/netlink"
)

func TestDump(t *testing.T) {
	other := errors.New("no such device")
	for _, c := range []struct {
		name        string
		interrupted int   // lists before the one that counts
		then        error // of that one
		want        error
	}{
		{"at once", 0, nil, nil},
		{"the third time", 2, nil, nil},
		{"another error", 2, other, other},
		{"never", 1000, nil, netlink.ErrDumpInterrupted},
	} {
		asked := 0
		got, err := dump(func() ([]int, error) {
			asked++
			if asked <= c.interrupted {
				return []int{0}, fmt.Errorf("list: %w", netlink.ErrDumpInterrupted)
			}
			return []int{asked}, c.then
		})
		if !errors.Is(err, c.want) || (err == nil) != (c.want == nil) || err == nil && got[0] != c.interrupted+1 {
			t.Errorf("%s: %v, %v; want error %v", c.name, got, err, c.want)
		}
	}
}

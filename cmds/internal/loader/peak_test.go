package loader

import (
	"errors"
	"testing"
)

func TestWatchMemory(t *testing.T) {
	values := []int64{100, 300, 200}
	seen := make(chan struct{})
	next := 0
	stop := watchMemory(func() (int64, error) {
		n := values[min(next, len(values)-1)]
		if next++; next == len(values) {
			close(seen)
		}
		return n, nil
	})
	<-seen
	for range 2 { // stopping again changes nothing
		if peak, err := stop(); peak != 300 || err != nil {
			t.Errorf("peak %d, %v", peak, err)
		}
	}
	broken := errors.New("broken")
	if _, err := watchMemory(func() (int64, error) { return 0, broken })(); !errors.Is(err, broken) {
		t.Errorf("error %v", err)
	}
}

func TestMemoryUsed(t *testing.T) {
	if n, err := memoryUsed(); err != nil || n <= 0 {
		t.Errorf("%d, %v", n, err)
	}
}

package loader

import (
	"errors"
	"sync"
	"time"

	"github.com/sealboot/sealboot/boot/base/meminfo"
)

// peakEvery is how often memory is looked at. The kernel holds an image twice
// for as long as it takes to copy it, which is many times that.
const peakEvery = 20 * time.Millisecond

// watchMemory looks at the machine's memory until stop is called, which
// returns the most that was in use, in bytes.
func watchMemory(used func() (int64, error)) (stop func() (int64, error)) {
	var peak int64
	var failed error
	done := make(chan struct{})
	var wg sync.WaitGroup
	look := func() {
		n, err := used()
		peak, failed = max(peak, n), errors.Join(failed, err)
	}
	look()
	wg.Go(func() {
		ticks := time.NewTicker(peakEvery)
		defer ticks.Stop()
		for failed == nil {
			select {
			case <-ticks.C:
				look()
			case <-done:
				return
			}
		}
	})
	return sync.OnceValues(func() (int64, error) {
		close(done)
		wg.Wait()
		return peak, failed
	})
}

// memoryUsed is the memory that is not available, in bytes.
func memoryUsed() (int64, error) {
	i, err := meminfo.Read()
	return i.Total - i.Available, err
}

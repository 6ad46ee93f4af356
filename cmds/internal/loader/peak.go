package loader

import (
	"bufio"
	"errors"
	"fmt"
	"os"
	"strconv"
	"strings"
	"sync"
	"time"
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

// memoryUsed is MemTotal - MemAvailable, in bytes.
func memoryUsed() (int64, error) {
	f, err := os.Open("/proc/meminfo")
	if err != nil {
		return 0, err
	}
	defer f.Close()
	values := make(map[string]int64)
	for s := bufio.NewScanner(f); s.Scan(); {
		name, rest, _ := strings.Cut(s.Text(), ":")
		kib, err := strconv.ParseInt(strings.TrimSuffix(strings.TrimSpace(rest), " kB"), 10, 53)
		if err == nil {
			values[name] = kib << 10
		}
	}
	if values["MemTotal"] == 0 || values["MemAvailable"] == 0 {
		return 0, fmt.Errorf("no MemTotal and MemAvailable in %s", f.Name())
	}
	return values["MemTotal"] - values["MemAvailable"], nil
}

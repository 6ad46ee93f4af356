package fetch

import (
	"bufio"
	"errors"
	"fmt"
	"os"
	"strconv"
	"strings"
)

func checkRoom(room func() (int64, error), need int64) error {
	have, err := room()
	if err != nil {
		return fmt.Errorf("finding out how much memory there is: %w", err)
	}
	if need > have {
		return &RoomError{Need: need, Have: have}
	}
	return nil
}

// memAvailable reads MemAvailable, in bytes.
func memAvailable() (int64, error) {
	f, err := os.Open("/proc/meminfo")
	if err != nil {
		return 0, err
	}
	defer f.Close()
	s := bufio.NewScanner(f)
	for s.Scan() {
		if rest, ok := strings.CutPrefix(s.Text(), "MemAvailable:"); ok {
			kib, err := strconv.ParseInt(strings.TrimSpace(strings.TrimSuffix(rest, "kB")), 10, 53)
			return kib << 10, err
		}
	}
	return 0, errors.Join(errors.New("no MemAvailable in /proc/meminfo"), s.Err())
}

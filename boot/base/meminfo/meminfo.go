// Package meminfo says how much memory the machine has, and what is said where that is
// too little. Ask [Available] before anything large is allocated: PID 1 that the kernel
// has to kill for its memory is a reset.
package meminfo

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"os"
	"strconv"
	"strings"
)

// Path is where the kernel says it (proc(5)).
const Path = "/proc/meminfo"

// ErrShort is matched by every [ShortError].
var ErrShort = errors.New("not enough memory")

// A ShortError says how much memory something needs and how much there is.
type ShortError struct {
	What            string // as in "the image"
	Need, Available int64  // bytes
}

func (e *ShortError) Error() string {
	return fmt.Sprintf("%s needs %d MiB of memory, %d MiB are available: use a smaller image or a machine with more RAM",
		e.What, (e.Need+1<<20-1)>>20, e.Available>>20)
}

// Is matches [ErrShort].
func (e *ShortError) Is(target error) bool { return target == ErrShort }

// Info is a machine's memory, in bytes.
type Info struct {
	Total     int64
	Available int64 // without swapping: free, and what the kernel would give up
}

// Read asks the kernel.
func Read() (Info, error) {
	f, err := os.Open(Path)
	if err != nil {
		return Info{}, fmt.Errorf("find out how much memory there is: %w", err)
	}
	defer f.Close()
	i, err := parse(f)
	if err != nil {
		return Info{}, fmt.Errorf("find out how much memory there is: %s: %w", Path, err)
	}
	return i, nil
}

// Available is the available memory alone, in bytes.
func Available() (int64, error) {
	i, err := Read()
	return i.Available, err
}

func parse(r io.Reader) (Info, error) {
	var i Info
	fields := map[string]*int64{"MemTotal": &i.Total, "MemAvailable": &i.Available}
	lines := bufio.NewScanner(r)
	for lines.Scan() && len(fields) > 0 {
		name, value, _ := strings.Cut(lines.Text(), ":")
		field := fields[name]
		if field == nil {
			continue
		}
		kib, err := strconv.ParseInt(strings.TrimSuffix(strings.TrimSpace(value), " kB"), 10, 53)
		if err != nil {
			return Info{}, fmt.Errorf("%s: %w", name, err)
		}
		*field = kib << 10
		delete(fields, name)
	}
	for name := range fields {
		return Info{}, errors.Join(fmt.Errorf("it has no %s", name), lines.Err())
	}
	return i, nil
}

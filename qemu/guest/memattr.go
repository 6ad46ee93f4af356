package main

import (
	"fmt"
	"os"
	"regexp"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"
)

var memattr = regexp.MustCompile(`MEMATTR=0x([0-9a-f]+)`)

// memattrPlace says what kind of memory the kernel counts that to in which firmware
// keeps its memory attributes table. kexec writes to "System RAM".
func memattrPlace() (string, error) {
	log := make([]byte, 1<<20)
	n, err := unix.Klogctl(unix.SYSLOG_ACTION_READ_ALL, log)
	if err != nil {
		return "", fmt.Errorf("kernel log: %w", err)
	}
	found := memattr.FindSubmatch(log[:n])
	if found == nil {
		return "", fmt.Errorf("the kernel's log names no memory attributes table")
	}
	at, err := strconv.ParseUint(string(found[1]), 16, 64)
	if err != nil {
		return "", err
	}
	iomem, err := os.ReadFile("/proc/iomem")
	if err != nil {
		return "", err
	}
	place := "nothing"
	for line := range strings.Lines(string(iomem)) { // an inner region comes after the one that it is in
		var first, last uint64
		if _, err := fmt.Sscanf(strings.TrimSpace(line), "%x-%x", &first, &last); err != nil {
			return "", fmt.Errorf("/proc/iomem: %q: %w", line, err)
		}
		if _, name, ok := strings.Cut(line, " : "); ok && first <= at && at <= last {
			place = strings.TrimSpace(name)
		}
	}
	return place, nil
}

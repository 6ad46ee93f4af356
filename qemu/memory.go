package qemu

import (
	"bufio"
	"bytes"
	"fmt"
	"io"
	"os"
)

// CountInMemory returns how often b stands in the machine's memory now, as a
// probe on its memory bus would find it.
func (vm *VM) CountInMemory(b []byte) (int, error) {
	start, size, err := vm.memory()
	if err != nil {
		return 0, err
	}
	mem, err := os.Open(fmt.Sprintf("/proc/%d/mem", vm.PID()))
	if err != nil {
		return 0, fmt.Errorf("qemu: memory of the machine: %w", err)
	}
	defer mem.Close()
	count := 0
	buf := make([]byte, 4<<20)
	for at := int64(0); at < size; {
		part := buf[:min(int64(len(buf)), size-at)]
		if _, err := io.ReadFull(io.NewSectionReader(mem, start+at, size-at), part); err != nil {
			return 0, fmt.Errorf("qemu: memory of the machine at %#x: %w", at, err)
		}
		count += bytes.Count(part, b)
		if at += int64(len(part)); at < size {
			at -= int64(len(b)) - 1 // it may lie across the end
		}
	}
	return count, nil
}

// memory finds the machine's in QEMU's: it is by far the largest mapping.
func (vm *VM) memory() (start, size int64, err error) {
	maps, err := os.Open(fmt.Sprintf("/proc/%d/maps", vm.PID()))
	if err != nil {
		return 0, 0, fmt.Errorf("qemu: memory of the machine: %w", err)
	}
	defer maps.Close()
	lines := bufio.NewScanner(maps)
	for lines.Scan() {
		var from, to int64
		var mode string
		if _, err := fmt.Sscanf(lines.Text(), "%x-%x %s", &from, &to, &mode); err == nil && mode == "rw-p" && to-from > size {
			start, size = from, to-from
		}
	}
	if size < vm.ram {
		return 0, 0, fmt.Errorf("qemu: no mapping of QEMU is as large as the machine's memory: %d of %d bytes", size, vm.ram)
	}
	return start, size, lines.Err()
}

package main

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"os"
	"strconv"
	"unsafe"

	"golang.org/x/sys/unix"
)

// Requests of the device mapper (linux/dm-ioctl.h); each passes a header of 312 bytes.
const (
	dmDevCreate  = 0xc138fd03
	dmDevSuspend = 0xc138fd06
	dmTableLoad  = 0xc138fd09

	dmReadOnly = 1 << 0
)

type dmHeader struct {
	Version                [3]uint32
	DataSize, DataStart    uint32
	TargetCount, OpenCount uint32
	Flags, EventNr, _      uint32
	Dev                    uint64
	Name                   [128]byte
	UUID                   [129]byte
	_                      [7]byte
}

type dmTarget struct {
	Start, Length uint64 // sectors of 512 bytes
	Status, Next  uint32
	Type          [16]byte
}

// verity makes a device of the first blocks of disk, behind which veritysetup
// has put the hash tree without a salt.
func verity(disk, blocks, root string) (string, error) {
	n, err := strconv.ParseUint(blocks, 10, 32)
	if err != nil {
		return "", err
	}
	control, err := os.OpenFile("/dev/mapper/control", os.O_RDWR, 0)
	if err != nil {
		return "", err
	}
	defer control.Close()
	target := dmTarget{Length: n * 8}
	copy(target.Type[:], "verity")
	table := fmt.Sprintf("1 %s %s 4096 4096 %d %d sha256 %s -\x00", disk, disk, n, n+1, root)
	for _, step := range []struct {
		request uintptr
		header  dmHeader
		body    []any
	}{
		{dmDevCreate, dmHeader{}, nil},
		{dmTableLoad, dmHeader{TargetCount: 1, Flags: dmReadOnly}, []any{&target, []byte(table)}},
		{dmDevSuspend, dmHeader{}, nil}, // without the flag it resumes
	} {
		if err := dm(control, step.request, step.header, step.body...); err != nil {
			return "", fmt.Errorf("verity device: %w", err)
		}
	}
	return "/dev/dm-0", nil
}

func dm(control *os.File, request uintptr, h dmHeader, body ...any) error {
	h.Version = [3]uint32{4, 0, 0}
	h.DataSize, h.DataStart = 4096, 312
	copy(h.Name[:], "root")
	var b bytes.Buffer
	for _, part := range append([]any{&h}, body...) {
		if err := binary.Write(&b, binary.LittleEndian, part); err != nil {
			return err
		}
	}
	buf := make([]byte, h.DataSize)
	copy(buf, b.Bytes())
	if _, _, errno := unix.Syscall(unix.SYS_IOCTL, control.Fd(), request, uintptr(unsafe.Pointer(&buf[0]))); errno != 0 {
		return errno
	}
	return nil
}

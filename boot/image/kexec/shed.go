package kexec

import (
	"fmt"
	"os"
	"time"

	"golang.org/x/sys/unix"

	"github.com/sealboot/sealboot/boot/base/memfd"
	"github.com/sealboot/sealboot/boot/image/uki"
)

// loadSlack is what else is needed: the handover, the kernel's lists of the
// pages that it reads and copies to, and what a watch every shedEvery lets slip.
const loadSlack = 16 << 20

// Needs returns how many bytes of memory Load takes at its peak beyond what
// the files hold now; initrd may be nil. The kernel reads both files into
// memory of its own and copies them from there to the pages of the image. An
// initrd that [Loader.Load] can free in between takes no more than one of the two.
func Needs(kernel, initrd *os.File) (int64, error) {
	read, err := sizeOf(kernel)
	if err != nil {
		return 0, err
	}
	image := read
	if bz, err := uki.ParseBzImage(kernel, read); err == nil {
		image = max(image, bz.InitSize)
	}
	need := read + image + loadSlack
	if initrd == nil {
		return need, nil
	}
	size, err := sizeOf(initrd)
	if err != nil {
		return 0, err
	}
	need += size + size/64 // page lists
	if !growable(initrd) { // it is copied for the handover first
		need += size
	}
	return need, nil
}

// sizeOf returns a file's size in bytes.
func sizeOf(f *os.File) (int64, error) {
	st, err := f.Stat()
	if err != nil {
		return 0, fmt.Errorf("size of %s: %w", f.Name(), err)
	}
	return st.Size(), nil
}

// shedEvery is how often it is looked whether the kernel has read the initrd.
const shedEvery = 5 * time.Millisecond

// shed frees the memory of the initrd as soon as the kernel has its own copy of
// it, while kexec_file_load goes on to hash that and to copy it once more. So
// loading needs two copies of an initrd at a time and not three. The handover
// at its end is left for close to overwrite.
//
// That the kernel has read the file shows in its access time; that it is not
// still reading, in that the file can be opened for writing, which the kernel
// denies while it reads. The function that is returned ends the watch, and tells
// whether the initrd is gone: then it cannot be loaded again.
func (i *initrd) shed() (stop func() bool) {
	end := i.secret
	if i.file == nil || end <= 0 || !growable(i.file) {
		return func() bool { return false }
	}
	before, err := accessed(i.file)
	if err != nil {
		return func() bool { return false }
	}
	quit, gone := make(chan struct{}), make(chan bool, 1)
	go func() {
		tick := time.NewTicker(shedEvery)
		defer tick.Stop()
		for {
			select {
			case <-quit:
				gone <- false
				return
			case <-tick.C:
			}
			if now, err := accessed(i.file); err != nil || now == before {
				continue
			}
			if w, err := memfd.Reopen(i.file, os.O_RDWR); err == nil {
				err = unix.Fallocate(int(w.Fd()), unix.FALLOC_FL_PUNCH_HOLE|unix.FALLOC_FL_KEEP_SIZE, 0, end)
				w.Close()
				gone <- err == nil
				return
			}
		}
	}()
	return func() bool {
		close(quit)
		return <-gone
	}
}

// accessed is when a file was last read.
func accessed(f *os.File) (unix.Timespec, error) {
	var st unix.Stat_t
	err := unix.Fstat(int(f.Fd()), &st)
	return st.Atim, err
}

package kexec

import (
	"encoding/binary"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// slow is a kernel that takes its time after it has read the initrd, and sees
// how much memory the file holds meanwhile.
type slow struct {
	fake
	refuse error
	shed   bool
}

func (s *slow) KexecFileLoad(kernel, initrd int, cmdline string, flags int) error {
	time.Sleep(20 * time.Millisecond) // access times are coarse
	if err := s.fake.KexecFileLoad(kernel, initrd, cmdline, flags); err != nil {
		return err
	}
	for range 1000 {
		var st unix.Stat_t
		if err := unix.Fstat(initrd, &st); err != nil {
			return err
		}
		if s.shed = st.Blocks*512 <= 64<<10; s.shed {
			break
		}
		time.Sleep(5 * time.Millisecond)
	}
	return s.refuse
}

func TestShed(t *testing.T) {
	public := strings.Repeat("public ", 100<<10)
	for name, refuse := range map[string]error{"loaded": nil, "refused": unix.EINVAL} {
		t.Run(name, func(t *testing.T) {
			k := &slow{fake: fake{disabled: "0"}, refuse: refuse}
			p := Payload{Kernel: mem(t, "KERNEL"), Initrd: mem(t, public), Cmdline: "c", Handover: handover}
			err := (&Loader{k}).Load(t.Context(), p)
			if (err != nil) != (refuse != nil) {
				t.Fatalf("Load: %v", err)
			}
			if !k.shed {
				t.Error("the initrd kept its memory while the kernel was loading")
			}
			if !strings.HasPrefix(k.initrd, public) || !strings.HasSuffix(k.initrd, "SECRET") {
				t.Error("the kernel read something else")
			}
			if len(k.kernels) != 1 {
				t.Errorf("the kernel was offered %d times; without an initrd, once is enough", len(k.kernels))
			}
			if rest := read(int(p.Initrd.Fd())); strings.Contains(rest, "SECRET") {
				t.Error("the handover is still there")
			}
		})
	}
}

func TestNeeds(t *testing.T) {
	bz := make([]byte, 0x1000)
	binary.LittleEndian.PutUint16(bz[0x1fe:], 0xaa55)
	copy(bz[0x202:], "HdrS")
	binary.LittleEndian.PutUint16(bz[0x206:], 0x20f)
	binary.LittleEndian.PutUint32(bz[0x260:], 32<<20)
	const size = 640 << 10
	onDisk := filepath.Join(t.TempDir(), "initrd")
	if err := os.WriteFile(onDisk, make([]byte, size), 0o600); err != nil {
		t.Fatal(err)
	}
	file, err := os.Open(onDisk)
	if err != nil {
		t.Fatal(err)
	}
	defer file.Close()
	for name, tc := range map[string]struct {
		kernel, initrd *os.File
		want           int64
	}{
		"no initrd":         {mem(t, "KERNEL"), nil, 2 * 6},
		"initrd in memory":  {mem(t, "KERNEL"), mem(t, strings.Repeat("i", size)), 2*6 + size + size/64},
		"initrd on a disk":  {mem(t, "KERNEL"), file, 2*6 + 2*size + size/64},
		"kernel that grows": {mem(t, string(bz)), nil, 0x1000 + 32<<20},
	} {
		got, err := Needs(tc.kernel, tc.initrd)
		if err != nil || got != tc.want+loadSlack {
			t.Errorf("%s: %d, %v; want %d", name, got, err, tc.want+loadSlack)
		}
	}
}

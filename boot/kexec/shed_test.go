package kexec

import (
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

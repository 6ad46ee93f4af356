package kexec

import (
	"bytes"
	"compress/gzip"
	"context"
	"errors"
	"io"
	"os"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"golang.org/x/sys/unix"

	"github.com/sealboot/sealboot/boot/base/memfd"
)

// fake is a kernel that accepts files beginning with "KERNEL".
type fake struct {
	disabled string
	lockdown string
	err      error // what accepted loads return

	kernels []string // as offered
	initrd  string   // as loaded
	cmdline string
	flags   int
	reboot  int
	rebErr  error
}

func (f *fake) KexecFileLoad(kernel, initrd int, cmdline string, flags int) error {
	if flags&unix.KEXEC_FILE_UNLOAD != 0 {
		f.initrd = ""
		return nil
	}
	for _, fd := range []int{kernel, initrd} {
		if mode, err := unix.FcntlInt(uintptr(fd), unix.F_GETFL, 0); fd >= 0 && (err != nil || mode&unix.O_ACCMODE != unix.O_RDONLY) {
			return unix.ETXTBSY
		}
	}
	k := read(kernel)
	f.kernels = append(f.kernels, k)
	if !strings.HasPrefix(k, "KERNEL") {
		return unix.ENOEXEC
	}
	f.cmdline, f.flags = cmdline, flags
	if initrd >= 0 {
		f.initrd = read(initrd)
	}
	return f.err
}

func read(fd int) string {
	var st unix.Stat_t
	if err := unix.Fstat(fd, &st); err != nil {
		return err.Error()
	}
	b := make([]byte, st.Size)
	n, _ := unix.Pread(fd, b, 0)
	return string(b[:n])
}

func (f *fake) Reboot(cmd int) error { f.reboot = cmd; return f.rebErr }

func (f *fake) ReadFile(name string) ([]byte, error) {
	switch {
	case strings.HasSuffix(name, "kexec_load_disabled") && f.disabled != "":
		return []byte(f.disabled + "\n"), nil
	case strings.HasSuffix(name, "lockdown") && f.lockdown != "":
		return []byte(f.lockdown), nil
	}
	return nil, os.ErrNotExist
}

func mem(t *testing.T, content string) *os.File {
	t.Helper()
	f, err := memfd.Store("test", func(w *os.File) error { _, err := io.WriteString(w, content); return err })
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { f.Close() })
	return f
}

func handover(w io.Writer) error { _, err := io.WriteString(w, "SECRET"); return err }

func TestLoad(t *testing.T) {
	file := func(dir string) *os.File {
		f, err := os.CreateTemp(dir, "initrd")
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { f.Close(); os.Remove(f.Name()) })
		if _, err := f.WriteString("initrd"); err != nil {
			t.Fatal(err)
		}
		return f
	}
	memory := "" // files in memory have seals as a memfd has, and somebody else may have them open
	if st, err := os.Stat("/dev/shm"); err == nil && st.IsDir() {
		memory = "/dev/shm"
	}
	sealed := func(seals int) *os.File {
		fd, err := unix.MemfdCreate("sealed", unix.MFD_ALLOW_SEALING)
		if err != nil {
			t.Fatal(err)
		}
		w := os.NewFile(uintptr(fd), "sealed")
		defer w.Close()
		_, werr := w.WriteString("initrd")
		_, serr := unix.FcntlInt(w.Fd(), unix.F_ADD_SEALS, seals)
		f, err := memfd.Reopen(w, os.O_RDONLY)
		if err := errors.Join(werr, serr, err); err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { f.Close() })
		return f
	}

	padded := "initrd" + strings.Repeat("\x00", 506) + "SECRET"
	for name, tc := range map[string]struct {
		initrd   *os.File
		handover func(io.Writer) error
		want     string
		grows    bool // the handover is written into the file itself
		flags    int
	}{
		"memory":      {mem(t, "initrd"), handover, padded, true, 0},
		"sealed":      {sealed(unix.F_SEAL_WRITE | unix.F_SEAL_GROW | unix.F_SEAL_SHRINK), handover, padded, false, 0},
		"cannot shed": {sealed(unix.F_SEAL_SHRINK), handover, padded, true, 0},
		"disk":        {file(t.TempDir()), handover, padded, false, 0},
		"tmpfs":       {file(memory), handover, padded, false, 0},
		"no initrd":   {nil, handover, "SECRET", false, 0},
		"no handover": {mem(t, "initrd"), nil, "initrd", true, 0},
		"neither":     {nil, nil, "", false, unix.KEXEC_FILE_NO_INITRAMFS},
	} {
		t.Run(name, func(t *testing.T) {
			if tc.initrd != nil && growable(tc.initrd) != tc.grows {
				t.Errorf("growable: %v, want %v", !tc.grows, tc.grows)
			}
			k := &fake{disabled: "0"}
			l := Loader{k}
			err := l.Load(context.Background(), Payload{Kernel: mem(t, "KERNEL"), Initrd: tc.initrd, Cmdline: "a b", Handover: tc.handover})
			if err != nil {
				t.Fatal(err)
			}
			if k.initrd != tc.want || k.cmdline != "a b" || k.flags != tc.flags {
				t.Errorf("loaded %q, %q, flags %d", k.initrd, k.cmdline, k.flags)
			}
			if tc.initrd == nil {
				return
			}
			if left := strings.TrimRight(read(int(tc.initrd.Fd())), "\x00"); left != "initrd" {
				t.Errorf("left behind: %q", left)
			}
		})
	}
}

// TestHandoverFails leaves nothing of a handover that could not be written.
func TestHandoverFails(t *testing.T) {
	broken := errors.New("broken")
	initrd := mem(t, "initrd")
	k := &fake{disabled: "0"}
	err := (&Loader{k}).Load(context.Background(), Payload{Kernel: mem(t, "KERNEL"), Initrd: initrd, Handover: func(w io.Writer) error {
		return errors.Join(handover(w), broken)
	}})
	if !errors.Is(err, broken) || len(k.kernels) != 0 {
		t.Errorf("got %v, %d loads", err, len(k.kernels))
	}
	if left := read(int(initrd.Fd())); strings.Contains(left, "SECRET") {
		t.Errorf("left behind: %q", left)
	}
}

func TestUnwrap(t *testing.T) {
	var gz bytes.Buffer
	zw := gzip.NewWriter(&gz)
	if _, err := io.WriteString(zw, "KERNEL gz"); err != nil {
		t.Fatal(err)
	}
	if err := zw.Close(); err != nil {
		t.Fatal(err)
	}
	zboot := "MZ\x00\x00zimg\x40\x00\x00\x00" + string(rune(gz.Len())) + "\x00\x00\x00" + strings.Repeat("\x00", 8) + "gzip" + strings.Repeat("\x00", 36) + gz.String()
	for name, kernel := range map[string]string{"gzip": gz.String(), "zboot": zboot} {
		k := &fake{disabled: "0"}
		if err := (&Loader{k}).Load(context.Background(), Payload{Kernel: mem(t, kernel)}); err != nil {
			t.Errorf("%s: %v", name, err)
		}
		if diff := cmp.Diff([]string{kernel, "KERNEL gz"}, k.kernels); diff != "" {
			t.Errorf("%s: %s", name, diff)
		}
	}
	k := &fake{disabled: "0"}
	err := (&Loader{k}).Load(context.Background(), Payload{Kernel: mem(t, "rubbish")})
	if !errors.Is(err, unix.ENOEXEC) || len(k.kernels) != 1 {
		t.Errorf("rubbish: %v after %d loads", err, len(k.kernels))
	}
}

var errStrange = errors.New("no error number")

// TestOverwriteFails: a handover that may be left somewhere is told.
func TestOverwriteFails(t *testing.T) {
	f := mem(t, "SECRET") // open for reading only
	for from, want := range map[int64]string{0: "overwrite handover", 6: "cut off handover"} {
		if err := zero(f, from); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("from byte %d: %v, want an error with %q", from, err, want)
		}
	}
}

func TestErrors(t *testing.T) {
	load := func(k *fake, p Payload) error {
		if p.Kernel == nil {
			p.Kernel = mem(t, "KERNEL")
		}
		return (&Loader{k}).Load(context.Background(), p)
	}
	for name, tc := range map[string]struct {
		err  error
		is   error
		text string
	}{
		"switched off": {load(&fake{disabled: "1"}, Payload{}), nil, "until the machine is reset"},
		"no support":   {load(&fake{}, Payload{}), unix.ENOSYS, "CONFIG_KEXEC_FILE"},
		"lockdown":     {load(&fake{disabled: "0", err: unix.EPERM, lockdown: "none [integrity] confidentiality"}, Payload{}), unix.EPERM, "locked down"},
		"no right":     {load(&fake{disabled: "0", err: unix.EPERM, lockdown: "[none] integrity confidentiality"}, Payload{}), unix.EPERM, "CAP_SYS_BOOT"},
		"no room":      {load(&fake{disabled: "0", err: unix.EADDRNOTAVAIL}, Payload{}), unix.EADDRNOTAVAIL, "RAM"},
		"no number":    {load(&fake{disabled: "0", err: errStrange}, Payload{}), errStrange, "load kernel"},
		"exec":         {(&Loader{&fake{rebErr: unix.EINVAL}}).Exec(context.Background(), nil), unix.EINVAL, "execute"},
		"exec returns": {(&Loader{&fake{}}).Exec(context.Background(), nil), nil, "returned"},
	} {
		if tc.err == nil || tc.is != nil && !errors.Is(tc.err, tc.is) || !strings.Contains(tc.err.Error(), tc.text) {
			t.Errorf("%s: %v", name, tc.err)
		}
	}
	k := &fake{}
	quiesce := errors.New("link is up")
	if err := (&Loader{k}).Exec(context.Background(), func(context.Context) error { return quiesce }); !errors.Is(err, quiesce) || k.reboot != 0 {
		t.Errorf("Exec after a failed quiesce: %v, reboot(%#x)", err, k.reboot)
	}
}

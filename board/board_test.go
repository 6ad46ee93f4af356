package board

import (
	"errors"
	"os"
	"strings"
	"testing"
)

func TestFind(t *testing.T) {
	for _, want := range All() {
		got, err := Find(want.Name)
		if err != nil || got != want {
			t.Errorf("Find(%q) = %+v, %v", want.Name, got, err)
		}
		if _, err := got.Kernel(); err != nil {
			t.Errorf("kernel of %s: %v", want.Name, err)
		}
		if !strings.Contains(want.Cmdline, "panic=") {
			t.Errorf("%s: command line %q would leave a panicked machine standing", want.Name, want.Cmdline)
		}
	}
	if _, err := Find("toaster"); !errors.Is(err, ErrUnknown) {
		t.Errorf("Find of an unknown board: %v, want ErrUnknown", err)
	}
}

// TestKernelsAreClosed pins what no board's kernel may offer: ways to run or
// replace kernel code other than the verified one, and to read its memory, a
// device's included. What the kernel takes of it, its build checks.
func TestKernelsAreClosed(t *testing.T) {
	for _, b := range All() {
		config, err := b.Kernel()
		if err != nil {
			t.Fatal(err)
		}
		fragment := string(config.Fragment)
		for _, option := range []string{
			"MODULES", "DEVMEM", "PROC_KCORE", "KEXEC", "BPF_SYSCALL", "DEBUG_FS", "USER_NS", "MAGIC_SYSRQ", "COREDUMP",
			"EFI_GENERIC_STUB_INITRD_CMDLINE_LOADER",
		} {
			if !strings.Contains(fragment, "\n# CONFIG_"+option+" is not set\n") {
				t.Errorf("%s does not turn off %s", b.Name, option)
			}
		}
		for _, option := range []string{
			"INIT_ON_FREE_DEFAULT_ON", "STACKPROTECTOR_STRONG", "RANDOMIZE_BASE", "PANIC_ON_OOPS", "KEXEC_FILE", "TCG_TPM",
			"INTEL_IOMMU", "INTEL_IOMMU_DEFAULT_ON", "AMD_IOMMU", "IRQ_REMAP", "IOMMU_DEFAULT_DMA_STRICT", "EFI_DISABLE_PCI_DMA",
			"RANDOMIZE_KSTACK_OFFSET", "RANDOMIZE_KSTACK_OFFSET_DEFAULT", "X86_UMIP", "SLS", "SECCOMP", "SECCOMP_FILTER", "SCHED_STACK_END_CHECK",
		} {
			if !strings.Contains(fragment, "\nCONFIG_"+option+"=y\n") {
				t.Errorf("%s does not turn on %s", b.Name, option)
			}
		}
	}
}

func TestBudget(t *testing.T) {
	l := &Loader{Kernel: File{Size: Budget - 100}, Initramfs: File{Size: 100}}
	if err := l.CheckBudget(); err != nil {
		t.Errorf("exactly the budget: %v", err)
	}
	l.Initramfs.Size++
	if err := l.CheckBudget(); !errors.Is(err, ErrBudget) {
		t.Errorf("one byte over: %v, want ErrBudget", err)
	}
}

func TestOpenFindsAChangedUKI(t *testing.T) {
	dir := t.TempDir()
	if _, err := Open(dir); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("Open of an empty directory: %v, want ErrNotExist", err)
	}
	uki := []byte("a UKI")
	l := &Loader{Board: "b", UKI: describe(uki), dir: dir}
	if err := l.write("A/B.EFI", []byte("a uki"[:0])); err == nil {
		// The manifest describes another file on purpose.
		if _, err := Open(dir); err == nil {
			t.Error("Open accepts a UKI that is not the one in the manifest")
		}
	} else {
		t.Fatal(err)
	}
	if err := l.write("A/B.EFI", uki); err != nil {
		t.Fatal(err)
	}
	got, err := Open(dir)
	if err != nil {
		t.Fatal(err)
	}
	if *got != *l {
		t.Errorf("Open = %+v, want %+v", got, l)
	}
}

package rootinit

import (
	"debug/elf"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
)

// TestRebuild assembles the sources again and compares with what is embedded.
func TestRebuild(t *testing.T) {
	for arch, prefix := range map[string]string{"amd64": "x86_64-linux-gnu-", "arm64": "aarch64-linux-gnu-"} {
		t.Run(arch, func(t *testing.T) {
			if _, err := exec.LookPath(prefix + "as"); err != nil {
				if os.Getenv("SEALBOOT_TEST_ALL") == "1" {
					t.Fatal(err)
				}
				t.Skip("no binutils for", arch)
			}
			dir := t.TempDir()
			obj, exe, bin := filepath.Join(dir, "o"), filepath.Join(dir, "elf"), filepath.Join(dir, "bin")
			for _, args := range [][]string{
				{"as", "-o", obj, "init_" + arch + ".asm"},
				{"ld", "-Ttext", "0x400000", "-e", "0", "-o", exe, obj},
				{"objcopy", "-O", "binary", "-j", ".text", exe, bin},
			} {
				if out, err := exec.Command(prefix+args[0], args[1:]...).CombinedOutput(); err != nil {
					t.Fatalf("%s: %v\n%s", args[0], err, out)
				}
			}
			built, err := os.ReadFile(bin)
			if err != nil {
				t.Fatal(err)
			}
			program, err := Program(arch)
			if err != nil {
				t.Fatal(err)
			}
			if string(built) != program {
				t.Errorf("init_%s is not what init_%s.asm assembles to; commit the new one", arch, arch)
			}
		})
	}
}

func TestProgram(t *testing.T) {
	for arch, machine := range map[string]elf.Machine{"amd64": elf.EM_X86_64, "arm64": elf.EM_AARCH64} {
		program, err := Program(arch)
		if err != nil {
			t.Fatal(err)
		}
		f, err := elf.NewFile(strings.NewReader(program))
		if err != nil {
			t.Fatal(err)
		}
		if f.Machine != machine || f.Type != elf.ET_EXEC || len(f.Progs) != 1 || f.Progs[0].Filesz != uint64(len(program)) {
			t.Errorf("%s: %v, %v, %d segments", arch, f.Machine, f.Type, len(f.Progs))
		}
		for _, path := range []string{Path, OwnInit, NewRoot} {
			if !strings.Contains(program, "/"+path+"\x00") {
				t.Errorf("%s: the program does not know %q", arch, path)
			}
		}
	}
	if _, err := Program("mips"); err == nil {
		t.Error("a program for mips")
	}
}

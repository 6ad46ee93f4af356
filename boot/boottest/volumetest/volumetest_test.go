package volumetest

import (
	"os"
	"os/exec"
	"path/filepath"
	"testing"

	"golang.org/x/sys/unix"
)

// TestEditInNamespace edits an image while a process in a mount namespace of its own holds every mount that there is, as
// systemd's tools do for a moment. The change has to be on the image nevertheless: TestCacheVolume once failed of that.
func TestEditInNamespace(t *testing.T) {
	needLoop(t)
	img := Ext4(t, "TEST")
	img.Edit(t, func(dir string) {
		holder := exec.Command("unshare", "--mount", "--propagation", "private", "sh", "-c", "echo; exec sleep 60")
		ready, err := holder.StdoutPipe()
		if err != nil {
			t.Fatal(err)
		}
		if err := holder.Start(); err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() {
			_ = holder.Process.Signal(unix.SIGKILL)
			_ = holder.Wait() // it was killed
		})
		if _, err := ready.Read(make([]byte, 1)); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(filepath.Join(dir, "file"), []byte("text"), 0o600); err != nil {
			t.Fatal(err)
		}
	})
	img.Edit(t, func(dir string) {
		if got, err := os.ReadFile(filepath.Join(dir, "file")); err != nil || string(got) != "text" {
			t.Errorf("the image has %q, %v", got, err)
		}
	})
}

package volume

import (
	"context"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"testing"
	"time"
)

// TestDeviceThatHangs looks for volumes on a machine where one device never
// answers.
func TestDeviceThatHangs(t *testing.T) {
	sys := t.TempDir()
	for _, dev := range []string{"vda", "vdb", "vdc"} {
		if err := os.Mkdir(filepath.Join(sys, dev), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	released := make(chan struct{})
	defer close(released)
	s := System{Sys: sys, Dev: "/dev", Patience: 50 * time.Millisecond, label: func(dev string) (string, string, error) {
		switch dev {
		case "/dev/vda":
			<-released
			return Cache, "ext4", nil
		case "/dev/vdb":
			return "", "", errors.New("no disk in it")
		}
		return Media, "vfat", nil
	}}
	if dev, _, err := s.Find(t.Context(), Media); dev != "/dev/vdc" || err != nil {
		t.Errorf("Find = %s, %v; want /dev/vdc", dev, err)
	}
	if _, _, err := s.Find(t.Context(), Cache); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("Find on a device that hangs: %v", err)
	}
	hang := func() error { <-released; return nil }
	if err := within(t.Context(), s.Patience, hang); !errors.Is(err, errNoAnswer) {
		t.Errorf("a mount that hangs: %v", err)
	}
	over, cancel := context.WithCancel(t.Context())
	cancel()
	s.Patience = time.Hour
	if _, _, err := s.Find(over, Media); !errors.Is(err, context.Canceled) {
		t.Errorf("Find after its end: %v", err)
	}
}

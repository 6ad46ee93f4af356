package fetch_test

import (
	"context"
	"os"
	"path/filepath"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	fp "github.com/sealboot/sealboot/boot/boottest/faultproxy"
	"github.com/sealboot/sealboot/boot/boottest/volumetest"
	"github.com/sealboot/sealboot/boot/source/fetch"
	"github.com/sealboot/sealboot/boot/source/volume"
)

// TestCachePowerCut takes what a real file system has written to its disk in the
// middle of a download, and goes on from there.
func TestCachePowerCut(t *testing.T) {
	const size = 10 * mib
	want := content(size)
	slow := fp.Always(fp.Throttle(mib, time.Second))
	disk := volumetest.Ext4(t, volume.Cache)
	after := volumetest.Image{Path: filepath.Join(t.TempDir(), "disk.img")}
	mounted := func(img volumetest.Image) (dir string, unmount func()) {
		dir, end, err := volumetest.Machine(t, img).OpenWritable(t.Context(), volume.Cache)
		if err != nil {
			t.Fatal(err)
		}
		unmount = sync.OnceFunc(func() {
			if err := end(); err != nil {
				t.Error(err)
			}
		})
		t.Cleanup(unmount)
		return dir, unmount
	}
	dir, unmount := mounted(disk)
	synctest.Test(t, func(t *testing.T) {
		cache, err := fetch.OpenCache(dir)
		if err != nil {
			t.Fatal(err)
		}
		defer cache.Close()
		f := setup(t, fetch.Options{Cache: cache, Streams: 1}, &fp.Proxy{Next: serve(want), Pick: slow})
		ctx, cancel := context.WithCancel(t.Context())
		time.AfterFunc(7500*time.Millisecond, func() {
			defer cancel()
			b, err := os.ReadFile(disk.Path)
			if err == nil {
				err = os.WriteFile(after.Path, b, 0o600)
			}
			if err != nil {
				t.Error(err)
			}
		})
		if _, err := f.Blob(ctx, blobOf(want)); err == nil {
			t.Error("success")
		}
	})
	unmount()
	dir, _ = mounted(after)
	sent, err := boot(t, "blob", dir, want, time.Hour, slow)
	if most := int64(size - 8*mib); err != nil || sent > most {
		t.Errorf("after the cut: %d bytes, want at most %d; %v", sent, most, err)
	}
}

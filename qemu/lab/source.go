package lab

import (
	"context"
	"fmt"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"time"
)

// sources are the entries of the site config for the ways in which the lab boots.
func (l *Lab) sources(ctx context.Context) ([]any, error) {
	var all []any
	for _, from := range l.o.Boot {
		entry, err := l.source(ctx, from)
		if err != nil {
			return nil, fmt.Errorf("source %s: %w", from, err)
		}
		all = append(all, entry)
	}
	return all, nil
}

// source publishes the image in one way and returns its entry of the site config.
func (l *Lab) source(ctx context.Context, from BootSource) (map[string]any, error) {
	switch from {
	case FromRegistry:
		entry := map[string]any{"type": "oci", "ref": l.imageRef(guestHost), "plainHTTP": true}
		if l.imageKey != nil {
			entry["keys"] = [][]byte{l.imageKey}
		}
		return l.withDisk(entry), nil
	case FromTUF:
		entry, err := l.tufSource(ctx)
		return l.withDisk(entry), err
	case FromMedia:
		return l.mediaSource(ctx)
	case FromBundle:
		return l.bundleSource(ctx)
	}
	return nil, fmt.Errorf("no way to boot from %q; there are %v", from, BootSources())
}

// withDisk lets a source write to a disk. That is before attestd judges, so only
// for whom the site trusts.
func (l *Lab) withDisk(entry map[string]any) map[string]any {
	if l.imageKey != nil && entry != nil {
		entry["disk"] = "SERIAL=" + osSerial
	}
	return entry
}

// mediaSource puts the image's OCI layout on a volume of its own.
func (l *Lab) mediaSource(ctx context.Context) (map[string]any, error) {
	if err := l.makeMedia(ctx, l.facts.layout); err != nil {
		return nil, err
	}
	return map[string]any{"type": "media"}, nil
}

// bundleSource puts an offline bundle of a TUF repository on a volume: metadata
// and image, and nothing that the network would have to add.
func (l *Lab) bundleSource(ctx context.Context) (map[string]any, error) {
	root, err := l.makeBundle(ctx)
	if err != nil {
		return nil, err
	}
	if err := l.makeMedia(ctx, l.path("stick")); err != nil {
		return nil, err
	}
	return map[string]any{"type": "media", "root": root, "target": bundleTarget}, nil
}

// osSerial is the serial number of the disk that disk images are written to.
const osSerial = "sealos"

// mediaLabel is the volume that the loader looks for.
const mediaLabel = "SB-MEDIA"

// makeMedia makes a disk whose one file system holds the tree in dir.
func (l *Lab) makeMedia(ctx context.Context, dir string) error {
	var size int64
	err := filepath.WalkDir(dir, func(_ string, d os.DirEntry, err error) error {
		if err != nil {
			return err
		}
		info, err := d.Info()
		if err == nil {
			size += info.Size() + 8<<10
		}
		return err
	})
	if err != nil {
		return err
	}
	disk := l.path("media.img")
	if err := os.RemoveAll(disk); err != nil {
		return err
	}
	size += size/8 + 16<<20 // what the file system itself needs
	if err := os.WriteFile(disk, nil, 0o644); err != nil {
		return err
	}
	if err := os.Truncate(disk, size&^(1<<20-1)); err != nil {
		return err
	}
	if _, err := l.run(ctx, l.o.Dir, "mkfs.ext4", "-q", "-F", "-O", "^has_journal", "-L", mediaLabel, "-d", dir, disk); err != nil {
		return err
	}
	l.facts.media = disk
	return nil
}

// fileServer is a plain web server for a directory, on loopback.
type fileServer struct {
	server *http.Server
	port   int
}

func serveFiles(dir string) (*fileServer, error) {
	listen, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return nil, err
	}
	f := &fileServer{
		server: &http.Server{Handler: http.FileServer(http.Dir(dir)), ReadHeaderTimeout: time.Minute},
		port:   listen.Addr().(*net.TCPAddr).Port,
	}
	go func() { _ = f.server.Serve(listen) }()
	return f, nil
}

func (f *fileServer) stop() { _ = f.server.Close() }

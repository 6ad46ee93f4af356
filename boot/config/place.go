package config

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"

	"github.com/sealboot/sealboot/boot/base/regular"
)

// The places of a host config, in the order in which they are searched.
const (
	// EFIVariable is the name of the EFI variable, with its vendor GUID as
	// efivarfs writes it.
	EFIVariable = "SealbootHost-5ea1b007-c0f1-4a5e-8b00-7ed05ea1b007"
	// VolumeLabel is the label of the volume, and VolumeFile the file in
	// its top directory.
	VolumeLabel = "SB-CONFIG"
	VolumeFile  = "sealboot.json"
	// FwCfg is the name of QEMU's fw_cfg item. Lab only.
	FwCfg = "opt/org.sealboot/host"
)

// A Place may hold a host config.
type Place interface {
	String() string
	// Read returns the bytes of the host config, or an error that matches
	// fs.ErrNotExist when this place has none.
	Read(ctx context.Context) ([]byte, error)
}

// FindHost returns the bytes of the first host config there is, and the name
// of its place. No host config anywhere is no error: raw is nil. A place that
// has one but cannot be read ends the search with an error, because falling
// through would let anyone who breaks one place choose another.
func FindHost(ctx context.Context, places []Place) (raw []byte, place string, err error) {
	for _, p := range places {
		raw, err := p.Read(ctx)
		if errors.Is(err, fs.ErrNotExist) {
			continue
		}
		if err != nil {
			return nil, "", fmt.Errorf("read the host config from %v: %w", p, err)
		}
		if len(raw) == 0 {
			return nil, "", fmt.Errorf("read the host config from %v: want JSON, found nothing", p)
		}
		return raw, p.String(), nil
	}
	return nil, "", nil
}

// InEFI reads the EFI variable under dir, which is where efivarfs is mounted.
func InEFI(dir string) Place {
	// efivarfs puts the variable's attributes before its data.
	return filePlace{"the EFI variable " + EFIVariable, filepath.Join(dir, EFIVariable), 4}
}

// InFwCfg reads QEMU's fw_cfg item under dir, the sysfs directory of its items.
func InFwCfg(dir string) Place {
	return filePlace{"fw_cfg " + FwCfg, filepath.Join(dir, FwCfg, "raw"), 0}
}

// InVolume reads VolumeFile from the volume labelled VolumeLabel. Open mounts
// a volume by its label, read-only, and fails with fs.ErrNotExist when no
// volume has that label.
func InVolume(open func(ctx context.Context, label string) (dir string, unmount func() error, err error)) Place {
	return volumePlace{open}
}

type filePlace struct {
	name, path string
	skip       int // bytes before the host config
}

func (p filePlace) String() string { return p.name }

func (p filePlace) Read(context.Context) ([]byte, error) {
	b, err := readFile(p.path, MaxHostSize+p.skip)
	if err != nil {
		return nil, err
	}
	if len(b) < p.skip {
		return nil, io.ErrUnexpectedEOF
	}
	return b[p.skip:], nil
}

type volumePlace struct {
	open func(ctx context.Context, label string) (dir string, unmount func() error, err error)
}

func (p volumePlace) String() string { return "volume " + VolumeLabel }

func (p volumePlace) Read(ctx context.Context) (b []byte, err error) {
	dir, unmount, err := p.open(ctx, VolumeLabel)
	if err != nil {
		return nil, err
	}
	defer func() { _ = unmount() }() // one that stays mounted is in no one's way
	// A link on the volume must not lead out of it.
	root, err := os.OpenRoot(dir)
	if err != nil {
		return nil, err
	}
	defer root.Close()
	f, err := regular.Open(root, VolumeFile, os.O_RDONLY, 0)
	if err != nil {
		// Its label says that it has a host config: no reason to look further.
		return nil, fmt.Errorf("open its file %s: %v", VolumeFile, err)
	}
	defer f.Close()
	return readAll(f, MaxHostSize)
}

// ReadSite reads the site config at path, and returns its bytes, too, which are
// what is measured.
func ReadSite(path string) (*Site, []byte, error) {
	b, err := readFile(path, MaxSiteSize)
	if err != nil {
		return nil, nil, fmt.Errorf("read the site config: %w; build the loader image with one", err)
	}
	s, err := ParseSite(b)
	if err != nil {
		return nil, nil, err
	}
	return s, b, nil
}

func readFile(path string, most int) ([]byte, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	return readAll(f, most)
}

func readAll(f fs.File, most int) ([]byte, error) {
	if fi, err := f.Stat(); err != nil {
		return nil, err
	} else if !fi.Mode().IsRegular() {
		return nil, fmt.Errorf("want a regular file, found %v", fi.Mode().Type())
	}
	b, err := io.ReadAll(io.LimitReader(f, int64(most)+1))
	if err == nil && len(b) > most {
		err = fmt.Errorf("want at most %d bytes, found more", most)
	}
	return b, err
}

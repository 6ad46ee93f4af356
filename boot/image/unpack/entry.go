package unpack

import (
	"archive/tar"
	"fmt"
	"math"
	"strings"

	"github.com/sealboot/sealboot/boot/image/cpio"
	"github.com/sealboot/sealboot/boot/image/unpack/rootinit"
)

const (
	maxComponent = 255  // NAME_MAX
	maxTarget    = 4095 // PATH_MAX without the NUL
	maxMajor     = 1<<12 - 1
	maxMinor     = 1<<20 - 1
	xattrPrefix  = "SCHILY.xattr."
	maxXattrs    = 64  // different names that are counted
	maxXattrName = 255 // XATTR_NAME_MAX; no file has a longer one
)

// cleanName returns a tar name without "./" and trailing slashes; the root is
// ".". It refuses names that could leave the root or that the kernel could
// not create. The result is a copy: a name of one byte may lie in a PAX header of
// a MiB, which would stay in memory as long as the name.
func cleanName(name string) (string, error) {
	if strings.HasPrefix(name, "/") || strings.IndexByte(name, 0) >= 0 {
		return "", fmt.Errorf("%w: name %.80q is absolute or has a NUL byte", ErrHostile, name)
	}
	if len(name) > cpio.MaxName {
		return "", fmt.Errorf("%w: name of %d bytes, %.80q", ErrHostile, len(name), name)
	}
	clean := make([]string, 0, 16)
	for part := range strings.SplitSeq(name, "/") {
		switch {
		case part == "" || part == ".":
		case part == "..":
			return "", fmt.Errorf("%w: name %.80q has \"..\" in it", ErrHostile, name)
		case len(part) > maxComponent:
			return "", fmt.Errorf("%w: %d bytes in one part of name %.80q", ErrHostile, len(part), name)
		default:
			clean = append(clean, part)
		}
	}
	if len(clean) == 0 {
		return ".", nil
	}
	return strings.Clone(strings.Join(clean, "/")), nil
}

// checkReserved keeps an image from bringing along what the firmware vouches
// for.
func checkReserved(name string, kind byte) error {
	if name == reserved || strings.HasPrefix(name, reserved+"/") {
		return fmt.Errorf("%w: %q belongs to the firmware; remove it from the image", ErrHostile, name)
	}
	if name == ".extra" && kind != tar.TypeDir {
		return fmt.Errorf("%w: %q is not a directory", ErrHostile, name)
	}
	return nil
}

// memberName is the name in the archive: the image's own /init makes room for
// the first process, which puts it back.
func memberName(name string) string {
	if name == rootinit.Path {
		return rootinit.OwnInit
	}
	return name
}

// convert makes a member's header of a tar entry's.
func (m *merger) convert(name string, h *tar.Header) (*cpio.Header, error) {
	if h.Uid < 0 || h.Gid < 0 || int64(h.Uid) > math.MaxUint32 || int64(h.Gid) > math.MaxUint32 {
		return nil, fmt.Errorf("%w: %q belongs to user %d, group %d", ErrHostile, name, h.Uid, h.Gid)
	}
	c := &cpio.Header{
		Name: memberName(name),
		Mode: uint32(h.Mode & 0o7777),
		UID:  uint32(h.Uid),
		GID:  uint32(h.Gid),
		// Times before 1970 and after 2106 do not fit.
		ModTime: uint32(min(max(h.ModTime.Unix(), 0), math.MaxUint32)),
	}
	switch h.Typeflag {
	case tar.TypeReg, tar.TypeCont, tar.TypeGNUSparse:
		if h.Size < 0 || h.Size > cpio.MaxSize {
			return nil, fmt.Errorf("%w: %q has %d bytes, a file in a RAM root can have %d", ErrTooLarge, name, h.Size, int64(cpio.MaxSize))
		}
		c.Mode |= cpio.ModeRegular
		c.Size = uint32(h.Size)
	case tar.TypeDir:
		c.Mode |= cpio.ModeDir
	case tar.TypeSymlink:
		if h.Linkname == "" || len(h.Linkname) > maxTarget || strings.IndexByte(h.Linkname, 0) >= 0 {
			return nil, fmt.Errorf("%w: symbolic link %q to %.80q", ErrHostile, name, h.Linkname)
		}
		c.Mode = cpio.ModeSymlink | 0o777
		c.Size = uint32(len(h.Linkname))
	case tar.TypeFifo:
		c.Mode |= cpio.ModeFIFO
	case tar.TypeChar, tar.TypeBlock:
		if h.Devmajor < 0 || h.Devmajor > maxMajor || h.Devminor < 0 || h.Devminor > maxMinor {
			return nil, fmt.Errorf("%w: %q is device %d:%d", ErrHostile, name, h.Devmajor, h.Devminor)
		}
		c.Mode |= map[byte]uint32{tar.TypeChar: cpio.ModeChar, tar.TypeBlock: cpio.ModeBlock}[h.Typeflag]
		c.RdevMajor, c.RdevMinor = uint32(h.Devmajor), uint32(h.Devminor)
	default:
		return nil, fmt.Errorf("%w: %q is an entry of unknown type %q", ErrHostile, name, h.Typeflag)
	}
	m.countXattrs(h)
	return c, nil
}

func (m *merger) countXattrs(h *tar.Header) {
	for key := range h.PAXRecords {
		name, ok := strings.CutPrefix(key, xattrPrefix)
		if !ok || len(name) > maxXattrName {
			continue
		}
		if _, known := m.stats.Xattrs[name]; known || len(m.stats.Xattrs) < maxXattrs {
			m.stats.Xattrs[strings.Clone(name)]++ // not the whole header
		}
	}
}

package tufrepo

import (
	"archive/tar"
	"context"
	"crypto"
	"fmt"
	"io"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"time"

	"github.com/theupdateframework/go-tuf/v2/metadata"

	"github.com/sealboot/sealboot/boot/source/tuf"
	"github.com/sealboot/sealboot/boot/source/tuf/bundle"
	"github.com/sealboot/sealboot/boot/source/tuf/image"
	"github.com/sealboot/sealboot/measure/atomicfile"
)

// Bundle is an offline bundle to write.
type Bundle struct {
	Lifetime time.Duration // after which devices refuse it
	// Targets are the names to take along, with the targets that they refer
	// to; none means all.
	Targets []string
	// Keys of the targets role. If they do not reach its threshold, [AddSeal]
	// adds the others later.
	Keys []crypto.Signer
}

// Bundle writes an offline bundle of what is published, as a tar, to w. It
// returns what its seal still lacks; devices refuse it until then.
func (r *Repo) Bundle(ctx context.Context, now time.Time, b Bundle, w io.Writer) (Missing, error) {
	p, err := r.load(ctx)
	if err != nil {
		return Missing{}, err
	}
	files, err := r.bundleTargets(p, b.Targets)
	if err != nil {
		return Missing{}, err
	}
	md := newSeal(p, now, b.Lifetime)
	if err := r.confirmSeal(p, md, slices.Sorted(maps.Keys(files)), b.Keys); err != nil {
		return Missing{}, err
	}
	seal, missing, err := signSeal(p, md, b.Keys)
	if err != nil {
		return Missing{}, fmt.Errorf("seal the bundle: %w", err)
	}
	return missing, r.writeBundle(ctx, w, seal, files)
}

func (r *Repo) writeBundle(ctx context.Context, w io.Writer, seal []byte, files map[string]tuf.Want) error {
	tw := tar.NewWriter(w)
	if err := addBytes(tw, bundle.SealFile, seal); err != nil {
		return err
	}
	dir, err := r.below(bundle.MetadataDir)
	if err != nil {
		return err
	}
	defer dir.Close()
	names, err := fs.Glob(dir.FS(), "*.json")
	if err != nil {
		return err
	}
	for _, name := range names {
		data, err := readFile(dir, name)
		if err != nil {
			return fmt.Errorf("bundle %s: %w", name, err)
		}
		if err := addBytes(tw, bundle.MetadataDir+"/"+name, data); err != nil {
			return err
		}
	}
	for _, file := range slices.Sorted(maps.Keys(files)) {
		if err := context.Cause(ctx); err != nil {
			return err
		}
		if err := r.addTarget(tw, file, files[file]); err != nil {
			return fmt.Errorf("bundle target file %s: %w", file, err)
		}
	}
	return tw.Close()
}

// BundleFile is Bundle to a file, which is there when it is complete.
func (r *Repo) BundleFile(ctx context.Context, now time.Time, b Bundle, file string) (missing Missing, err error) {
	err = atomicfile.Fill(file, 0o644, func(f *os.File) error {
		missing, err = r.Bundle(ctx, now, b, f)
		return err
	})
	return missing, err
}

// bundleTargets are the files for the named targets and what they refer to, each
// compared with what is signed of it.
func (r *Repo) bundleTargets(p *published, names []string) (map[string]tuf.Want, error) {
	all, err := p.targetFiles()
	if err != nil {
		return nil, err
	}
	files := map[string]tuf.Want{}
	add := func(file string) error {
		files[file] = all[file]
		if err := r.checkTarget(file, all[file]); err != nil {
			return fmt.Errorf("target file %s: %w", file, err)
		}
		return nil
	}
	if len(names) == 0 {
		for file := range all {
			if err := add(file); err != nil {
				return nil, err
			}
		}
	}
	consistent := p.roles[tuf.RoleRoot].(*rootMD).Signed.ConsistentSnapshot
	for todo := slices.Clone(names); len(todo) > 0; todo = todo[1:] {
		f := findTarget(p.roles, todo[0])
		if f == nil {
			return nil, fmt.Errorf("%w: there is no target %q", ErrChange, todo[0])
		}
		file := targetFile(todo[0], f, consistent)
		if _, there := files[file]; there {
			continue
		}
		if err := add(file); err != nil {
			return nil, err
		}
		more, err := r.references(f, file)
		if err != nil {
			return nil, fmt.Errorf("target %s: %w", todo[0], err)
		}
		todo = append(todo, more...)
	}
	return files, nil
}

func findTarget(published map[string]any, name string) *metadata.TargetFiles {
	for _, md := range published {
		if t, ok := md.(*targetsMD); ok && t.Signed.Targets[name] != nil {
			return t.Signed.Targets[name]
		}
	}
	return nil
}

// references are the targets that a bootable target, which is in file, needs.
func (r *Repo) references(f *metadata.TargetFiles, file string) ([]string, error) {
	if f.Custom == nil {
		return nil, nil
	}
	custom, err := image.ParseCustom(*f.Custom)
	if err != nil {
		return nil, nil // another tool's
	}
	names := []string{custom.ReferenceValues}
	if custom.Kind == image.KindLinux {
		dir, err := r.below(bundle.TargetsDir)
		if err != nil {
			return nil, err
		}
		defer dir.Close()
		data, err := readFile(dir, filepath.FromSlash(file))
		if err != nil {
			return nil, err
		}
		l, err := image.ParseLinux(data)
		if err != nil {
			return nil, err
		}
		names = append(names, l.Kernel, l.Initrd, l.DTB)
	}
	return slices.DeleteFunc(names, func(s string) bool { return s == "" }), nil
}

func addBytes(tw *tar.Writer, name string, data []byte) error {
	h := &tar.Header{Name: name, Mode: 0o644, Size: int64(len(data)), Format: tar.FormatPAX}
	if err := tw.WriteHeader(h); err != nil {
		return err
	}
	_, err := tw.Write(data)
	return err
}

// addTarget adds a target file. The operator may have taken minutes to say yes since it
// was compared with what is signed of it: what goes into the bundle is compared again.
func (r *Repo) addTarget(tw *tar.Writer, file string, want tuf.Want) error {
	f, err := r.openPlain(bundle.TargetsDir, file)
	if err != nil {
		return err
	}
	defer f.Close()
	h := &tar.Header{Name: bundle.TargetsDir + "/" + file, Mode: 0o644, Size: want.Size, Format: tar.FormatPAX}
	if err := tw.WriteHeader(h); err != nil {
		return err
	}
	_, err = io.Copy(tw, want.Reader(f))
	return err
}

package repo

import (
	"archive/tar"
	"context"
	"crypto"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"maps"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/theupdateframework/go-tuf/v2/metadata"

	"github.com/sealboot/sealboot/boot/tuf"
	"github.com/sealboot/sealboot/boot/tuf/bundle"
	"github.com/sealboot/sealboot/boot/tuf/image"
	"github.com/sealboot/sealboot/boot/tuf/store"
	"github.com/sealboot/sealboot/measure/atomicfile"
)

// Role is what [Verify] reports of a role.
type Role struct {
	Version int64
	Expires time.Time
	Targets int // how many it lists
}

// Verify follows the repository in dir as a device would, starting from a root
// it trusts, and reads every target. It needs no lock.
func Verify(ctx context.Context, dir string, trustedRoot []byte, now time.Time) (map[string]Role, error) {
	folder, err := bundle.OpenFolder(dir)
	if err != nil {
		return nil, err
	}
	defer folder.Close()
	folder.Create = func() (*os.File, error) { return os.OpenFile(os.DevNull, os.O_RDWR, 0) }
	client, err := tuf.New(tuf.Config{
		TrustedRoot: trustedRoot, Store: &store.Memory{}, Now: now,
		Repositories: []tuf.Repository{folder}, Targets: folder,
	})
	if err != nil {
		return nil, err
	}
	if err := client.Refresh(ctx); err != nil {
		return nil, err
	}
	published, err := readPublished(filepath.Join(dir, bundle.MetadataDir))
	if err != nil {
		return nil, err
	}
	report := map[string]Role{}
	for name, md := range published {
		f := fieldsOf(md)
		r := Role{Version: *f.version, Expires: *f.expires}
		if t, ok := md.(*targetsMD); ok {
			r.Targets = len(t.Signed.Targets)
			if err := readTargets(ctx, client, t); err != nil {
				return nil, err
			}
		}
		report[name] = r
	}
	return report, nil
}

func readTargets(ctx context.Context, client *tuf.Client, t *targetsMD) error {
	for _, name := range slices.Sorted(maps.Keys(t.Signed.Targets)) {
		target, err := client.Find(ctx, name)
		if err != nil {
			return err
		}
		f, err := client.Download(ctx, target)
		if err != nil {
			return err
		}
		if err := f.Close(); err != nil {
			return err
		}
	}
	return nil
}

// Export copies what is published to the folder dst, for any web server or
// bucket. What was in dst/metadata is replaced in one step, after the targets
// are there; targets that are not published any more stay for clients that are
// on their way.
func (r *Repo) Export(ctx context.Context, dst string) error {
	published, err := readPublished(r.path(bundle.MetadataDir))
	if err != nil {
		return err
	}
	out := &Repo{dir: dst, step: r.step}
	for _, file := range targetFiles(published) {
		if err := context.Cause(ctx); err != nil {
			return err
		}
		if err := out.importTarget(r.path(bundle.TargetsDir, filepath.FromSlash(file)), file); err != nil {
			return fmt.Errorf("export target %s: %w", file, err)
		}
	}
	err = out.replaceDir(bundle.MetadataDir, func(staged string) error {
		return os.CopyFS(staged, os.DirFS(r.path(bundle.MetadataDir)))
	})
	if err != nil {
		return fmt.Errorf("export to %s: %w", dst, err)
	}
	return nil
}

// importTarget copies a target file that has its final name already.
func (r *Repo) importTarget(src, file string) error {
	have, err := os.Stat(r.path(bundle.TargetsDir, filepath.FromSlash(file)))
	if want, err2 := os.Stat(src); err == nil && err2 == nil && have.Size() == want.Size() && have.ModTime().After(want.ModTime()) {
		return nil
	}
	_, err = r.copyTarget(file, src, false)
	return err
}

// targetFiles are the paths below targets/ that the roles refer to.
func targetFiles(roles map[string]any) []string {
	consistent := roles[tuf.RoleRoot].(*rootMD).Signed.ConsistentSnapshot
	files := map[string]bool{}
	for _, md := range roles {
		if t, ok := md.(*targetsMD); ok {
			for name, f := range t.Signed.Targets {
				files[targetFile(name, f, consistent)] = true
			}
		}
	}
	return slices.Sorted(maps.Keys(files))
}

func targetFile(name string, f *metadata.TargetFiles, consistent bool) string {
	if !consistent {
		return name
	}
	digest := f.Hashes["sha256"]
	if digest == nil {
		digest = f.Hashes["sha512"]
	}
	dir, file := path.Split(name)
	return dir + digest.String() + "." + file
}

// Bundle is an offline bundle to write.
type Bundle struct {
	Lifetime time.Duration // after which devices refuse it
	// Targets are the names to take along, with the targets that they refer
	// to; none means all.
	Targets []string
	// Keys must reach the threshold of the targets role.
	Keys []crypto.Signer
}

// Bundle writes an offline bundle of what is published, as a tar, to w.
func (r *Repo) Bundle(ctx context.Context, now time.Time, b Bundle, w io.Writer) error {
	published, err := readPublished(r.path(bundle.MetadataDir))
	if err != nil {
		return err
	}
	files, err := r.bundleTargets(published, b.Targets)
	if err != nil {
		return err
	}
	seal, err := r.seal(published, now, b)
	if err != nil {
		return fmt.Errorf("seal the bundle: %w", err)
	}
	tw := tar.NewWriter(w)
	if err := addBytes(tw, bundle.SealFile, seal); err != nil {
		return err
	}
	names, err := fs.Glob(os.DirFS(r.dir), bundle.MetadataDir+"/*.json")
	if err != nil {
		return err
	}
	for _, file := range files {
		names = append(names, bundle.TargetsDir+"/"+file)
	}
	for _, name := range names {
		if err := context.Cause(ctx); err != nil {
			return err
		}
		if err := addFile(tw, name, r.path(filepath.FromSlash(name))); err != nil {
			return fmt.Errorf("bundle %s: %w", name, err)
		}
	}
	return tw.Close()
}

// BundleFile is Bundle to a file, which is there when it is complete.
func (r *Repo) BundleFile(ctx context.Context, now time.Time, b Bundle, file string) error {
	return atomicfile.Fill(file, 0o644, func(f *os.File) error { return r.Bundle(ctx, now, b, f) })
}

// seal makes and signs the statement of a bundle; see [tuf.SealType].
func (r *Repo) seal(published map[string]any, now time.Time, b Bundle) ([]byte, error) {
	md := metadata.Targets(now.UTC().Truncate(time.Second).Add(b.Lifetime))
	md.Signed.Type = tuf.SealType
	md.Signed.Version = *fieldsOf(published[tuf.RoleTimestamp]).version
	name := tuf.RoleTimestamp + ".json"
	data, err := os.ReadFile(r.path(bundle.MetadataDir, name))
	if err != nil {
		return nil, err
	}
	sum := sha256.Sum256(data)
	md.Signed.Targets[name] = &metadata.TargetFiles{Length: int64(len(data)), Hashes: metadata.Hashes{"sha256": sum[:]}}
	root := published[tuf.RoleRoot].(*rootMD)
	e := &Edit{roles: map[string]any{tuf.RoleRoot: root, tuf.RoleTargets: md}, changed: map[string]bool{tuf.RoleTargets: true}}
	if err := e.sign(b.Keys); err != nil {
		return nil, err
	}
	if err := root.VerifyDelegate(tuf.RoleTargets, md); err != nil {
		return nil, fmt.Errorf("it needs the keys of the targets role: %w", err)
	}
	return encode(md)
}

// bundleTargets are the files for the named targets and what they refer to.
func (r *Repo) bundleTargets(published map[string]any, names []string) ([]string, error) {
	if len(names) == 0 {
		return targetFiles(published), nil
	}
	consistent := published[tuf.RoleRoot].(*rootMD).Signed.ConsistentSnapshot
	files := map[string]bool{}
	for todo := slices.Clone(names); len(todo) > 0; todo = todo[1:] {
		f := findTarget(published, todo[0])
		if f == nil {
			return nil, fmt.Errorf("%w: there is no target %q", ErrChange, todo[0])
		}
		file := targetFile(todo[0], f, consistent)
		if files[file] {
			continue
		}
		files[file] = true
		more, err := references(f, r.path(bundle.TargetsDir, filepath.FromSlash(file)))
		if err != nil {
			return nil, fmt.Errorf("target %s: %w", todo[0], err)
		}
		todo = append(todo, more...)
	}
	return slices.Sorted(maps.Keys(files)), nil
}

func findTarget(published map[string]any, name string) *metadata.TargetFiles {
	for _, md := range published {
		if t, ok := md.(*targetsMD); ok && t.Signed.Targets[name] != nil {
			return t.Signed.Targets[name]
		}
	}
	return nil
}

// references are the targets that a bootable target needs.
func references(f *metadata.TargetFiles, file string) ([]string, error) {
	if f.Custom == nil {
		return nil, nil
	}
	custom, err := image.ParseCustom(*f.Custom)
	if err != nil {
		return nil, nil // another tool's
	}
	names := []string{custom.ReferenceValues}
	if custom.Kind == image.KindLinux {
		data, err := os.ReadFile(file)
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

func addFile(tw *tar.Writer, name, file string) (err error) {
	f, err := os.Open(file)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, f.Close()) }()
	st, err := f.Stat()
	if err != nil {
		return err
	}
	if !st.Mode().IsRegular() || strings.HasPrefix(name, "/") {
		return fmt.Errorf("%s is not a plain file", file)
	}
	h := &tar.Header{Name: name, Mode: 0o644, Size: st.Size(), Format: tar.FormatPAX}
	if err := tw.WriteHeader(h); err != nil {
		return err
	}
	_, err = io.Copy(tw, f)
	return err
}

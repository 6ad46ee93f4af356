package unpack

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/json"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"github.com/google/go-cmp/cmp"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/sealboot/sealboot/boot/image/unpack/rootinit"
)

// need skips the test if a tool or the rights it needs are missing.
func need(t *testing.T, tools ...string) {
	t.Helper()
	for _, tool := range tools {
		if _, err := exec.LookPath(tool); err != nil {
			if os.Getenv("SEALBOOT_TEST_ALL") == "1" {
				t.Fatal(err)
			}
			t.Skip(tool, "is not installed")
		}
	}
	if os.Geteuid() != 0 {
		t.Skip("owners and device nodes need root")
	}
}

func run(t *testing.T, stdin []byte, dir string, args ...string) string {
	t.Helper()
	var stdout, stderr bytes.Buffer
	cmd := exec.Command(args[0], args[1:]...)
	cmd.Dir, cmd.Stdin, cmd.Stdout, cmd.Stderr = dir, bytes.NewReader(stdin), &stdout, &stderr
	if err := cmd.Run(); err != nil {
		t.Fatalf("%s: %v\n%s", strings.Join(args, " "), err, stderr.String())
	}
	return strings.TrimSpace(stdout.String())
}

// describe lists a tree as a file system has it. Names of one inode are told
// by the first of them.
func describe(t *testing.T, root string) map[string]string {
	t.Helper()
	out, first := map[string]string{}, map[uint64]string{}
	err := filepath.WalkDir(root, func(p string, _ fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		var st syscall.Stat_t
		if err := syscall.Lstat(p, &st); err != nil {
			return err
		}
		name, _ := filepath.Rel(root, p)
		what := fmt.Sprintf("%o %d:%d rdev %d", st.Mode, st.Uid, st.Gid, st.Rdev)
		switch st.Mode & syscall.S_IFMT {
		case syscall.S_IFREG:
			b, err := os.ReadFile(p)
			if err != nil {
				return err
			}
			what += fmt.Sprintf(" mtime %d %x", st.Mtim.Sec, sha256.Sum256(b))
		case syscall.S_IFLNK:
			to, err := os.Readlink(p)
			if err != nil {
				return err
			}
			what += " to " + to
		}
		if st.Mode&syscall.S_IFMT == syscall.S_IFREG && st.Nlink > 1 {
			if first[st.Ino] == "" {
				first[st.Ino] = name
			}
			what += " same as " + first[st.Ino]
		}
		out[name] = what
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	return out
}

// layersOf reads the only image of an OCI layout.
func layersOf(t *testing.T, layout string) []Layer {
	t.Helper()
	blobAt := func(d ocispec.Descriptor) []byte {
		b, err := os.ReadFile(filepath.Join(layout, "blobs", "sha256", d.Digest.Encoded()))
		if err != nil {
			t.Fatal(err)
		}
		return b
	}
	var index ocispec.Index
	var m ocispec.Manifest
	b, err := os.ReadFile(filepath.Join(layout, "index.json"))
	if err != nil {
		t.Fatal(err)
	}
	if err := json.Unmarshal(b, &index); err != nil {
		t.Fatal(err)
	}
	if err := json.Unmarshal(blobAt(index.Manifests[0]), &m); err != nil {
		t.Fatal(err)
	}
	var layers []Layer
	for _, d := range m.Layers {
		layers = append(layers, blob(blobAt(d)))
	}
	return layers
}

// TestBuildah makes an image of three layers with buildah, and compares what
// buildah shows as its root with what cpio unpacks from the archive.
func TestBuildah(t *testing.T) {
	need(t, "buildah", "cpio", "sh")
	storage, layout := t.TempDir(), filepath.Join(t.TempDir(), "layout")
	buildah := func(args ...string) string {
		return run(t, nil, "", append([]string{"buildah", "--root", storage + "/root", "--runroot", storage + "/run", "--storage-driver", "vfs"}, args...)...)
	}
	image, mount := "scratch", ""
	for i, script := range []string{
		`mkdir -p etc usr/bin usr/lib var/cache dev opt/app/old; echo one >etc/one; echo gone >etc/gone; ln -s usr/lib lib
		 echo perl >usr/bin/perl; ln usr/bin/perl usr/bin/perl5; ln usr/bin/perl usr/bin/perl6; chmod 4755 usr/bin/perl
		 mknod dev/null c 1 3; mkfifo var/pipe; chown 7:8 etc/one; chmod 1777 var/cache; touch -d @1600000000 etc/one
		 echo a >opt/app/old/a; echo x >swap; head -c 300000 /dev/urandom >usr/lib/big`,
		`rm etc/gone; echo two >etc/two; echo new perl >p; mv p usr/bin/perl; rm -r opt/app; mkdir -p opt/app/new; echo b >opt/app/new/b
		 rm swap; mkdir swap; echo y >swap/y; chmod 700 usr/lib; ln usr/lib/big usr/lib/big2; ln -s /nowhere broken`,
		`rm -r swap; echo z >swap; chown 9 etc; echo three >usr/bin/perl5; rm lib; mkdir lib; echo real >lib/file; echo own init >init`,
	} {
		container := buildah("from", "--pull-never", image)
		mount = buildah("mount", container)
		run(t, nil, mount, "sh", "-ec", script)
		image = fmt.Sprintf("localhost/layer%d", i)
		buildah("commit", container, image)
	}
	buildah("push", image, "oci:"+layout)
	layers := layersOf(t, layout)
	if len(layers) != 3 {
		t.Fatalf("%d layers", len(layers))
	}
	var archive memory
	if _, err := RAMRoot(context.Background(), &archive, layers, Options{MaxBytes: 16 << 20}); err != nil {
		t.Fatal(err)
	}
	unpacked := t.TempDir()
	run(t, archive.b, unpacked, "cpio", "-idmu", "--quiet")
	if err := os.Rename(filepath.Join(unpacked, rootinit.OwnInit), filepath.Join(unpacked, rootinit.Path)); err != nil {
		t.Fatal(err)
	}
	if err := os.RemoveAll(filepath.Join(unpacked, ".extra")); err != nil {
		t.Fatal(err)
	}
	want, got := describe(t, mount), describe(t, unpacked)
	delete(want, ".") // the storage's own, not in a layer
	delete(got, ".")
	if diff := cmp.Diff(want, got); diff != "" {
		t.Error(diff)
	}
}

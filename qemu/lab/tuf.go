package lab

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"

	"github.com/sealboot/sealboot/boot/source/tuf/bundle"
)

// The names under which the repository has the image: by its digest in the
// registry, and with all its bytes.
const (
	tufTarget    = "demo"
	bundleTarget = "demo-offline"
)

// tufSource publishes the image in a TUF repository as its operator would: the
// target names the image's digest, the bytes stay in the registry. Any web
// server can serve it, without TLS.
func (l *Lab) tufSource(ctx context.Context) (map[string]any, error) {
	if err := l.initTUF(ctx); err != nil {
		return nil, err
	}
	if err := l.PublishTUF(ctx, 1); err != nil {
		return nil, err
	}
	web, err := serveFiles(l.tufSite())
	if err != nil {
		return nil, err
	}
	l.web = web
	root, err := l.tufRoot()
	if err != nil {
		return nil, err
	}
	return map[string]any{
		"type": "tuf", "root": root, "target": tufTarget, "plainHTTP": true,
		"metadataURL": fmt.Sprintf("http://%s:%d/%s", guestHost, web.port, bundle.MetadataDir),
	}, nil
}

// initTUF begins the repository, unless there is one.
func (l *Lab) initTUF(ctx context.Context) error {
	if _, err := os.Stat(l.tufState()); err == nil {
		return nil
	}
	if _, err := os.Stat(l.tufRepo()); err == nil { // of a lab from before there was a state
		root := filepath.Join(l.tufRepo(), bundle.MetadataDir, "1.root.json")
		_, err := l.sealboot(ctx, "tuf", "trust", l.tufRepo(), "--root", root, "--state", l.tufState())
		return err
	}
	return l.TUF(ctx, "init", "--generate", l.path("tuf-keys"))
}

func (l *Lab) tufRepo() string { return l.path("tuf-repo") }

// tufState is what the repository's operator remembers of it.
func (l *Lab) tufState() string { return l.path("tuf-state") }

// tufSite is what the web server has: the repository as it was exported last.
func (l *Lab) tufSite() string { return l.path("tuf-site") }

// tufRoot is the root that the machines of the site trust from the beginning.
func (l *Lab) tufRoot() ([]byte, error) {
	return os.ReadFile(filepath.Join(l.tufRepo(), bundle.MetadataDir, "1.root.json"))
}

// TUF runs "sealboot tuf VERB" on the repository, with all keys of the site that
// were not taken away.
func (l *Lab) TUF(ctx context.Context, verb string, args ...string) error {
	args = append([]string{"tuf", verb, l.tufRepo()}, args...)
	found, err := filepath.Glob(l.path("tuf-keys", "*.pem"))
	if err != nil {
		return err
	}
	for _, file := range found {
		args = append(args, "--key", file)
	}
	args = append(args, "--yes", "--state", l.tufState())
	_, err = l.sealboot(ctx, args...)
	return err
}

// PublishTUF makes the lab's image the target, as this version of it, and puts
// the repository on the web server.
func (l *Lab) PublishTUF(ctx context.Context, version uint64) error {
	err := l.TUF(ctx, "add", tufTarget, "--kind", "oci", "--image-version", strconv.FormatUint(version, 10),
		"--oci", fmt.Sprintf("%s:%d/sealboot/demo@%s", guestHost, l.registry, l.facts.image))
	if err != nil {
		return err
	}
	return l.ExportTUF(ctx)
}

// ExportTUF puts the repository on the web server as it is now.
func (l *Lab) ExportTUF(ctx context.Context) error {
	_, err := l.sealboot(ctx, "tuf", "export", l.tufRepo(), l.tufSite(), "--state", l.tufState())
	return err
}

// makeBundle makes stick/demo.tar, an offline bundle of a repository whose
// target is the image itself, and returns the repository's root.
func (l *Lab) makeBundle(ctx context.Context) ([]byte, error) {
	archive, stick := l.path("image.tar"), l.path("stick")
	if err := os.MkdirAll(stick, 0o755); err != nil {
		return nil, err
	}
	if out, err := exec.CommandContext(ctx, "tar", "-C", l.facts.layout, "-cf", archive, ".").CombinedOutput(); err != nil {
		return nil, fmt.Errorf("tar: %w: %s", err, out)
	}
	if err := l.initTUF(ctx); err != nil {
		return nil, err
	}
	if err := l.TUF(ctx, "add", bundleTarget, archive, "--kind", "bundle", "--image-version", "1"); err != nil {
		return nil, err
	}
	if err := l.TUF(ctx, "bundle", filepath.Join(stick, "demo.tar"), "--target", bundleTarget, "--lifetime", "30d"); err != nil {
		return nil, err
	}
	return l.tufRoot()
}

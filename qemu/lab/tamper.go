package lab

import (
	"archive/tar"
	"bytes"
	"context"
	"crypto/tls"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"slices"
	"strings"
	"time"

	"github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/empty"
	"github.com/google/go-containerregistry/pkg/v1/layout"
	"github.com/google/go-containerregistry/pkg/v1/mutate"
	"github.com/google/go-containerregistry/pkg/v1/tarball"

	"github.com/sealboot/sealboot/attest/ca"
	"github.com/sealboot/sealboot/attest/server/site"
	"github.com/sealboot/sealboot/attest/wire"
	"github.com/sealboot/sealboot/boot/image/osimage"
)

// Tamper is one thing that is changed behind the back of everybody.
type Tamper string

// What can be changed. The first four are changes of what boots; the others are
// a man in the middle whom the device's TLS accepts.
const (
	TamperUKI     Tamper = "uki"     // the loader's UKI: another site config inside
	TamperKernel  Tamper = "kernel"  // one byte of the image's kernel, behind the same tag
	TamperInitrd  Tamper = "initrd"  // one file of the image's root, which becomes the initrd
	TamperCmdline Tamper = "cmdline" // the image's part of the command line
	TamperLog     Tamper = "log"     // one byte of the event log on its way to attestd
	TamperM4      Tamper = "m4"      // the secrets in attestd's answer
	TamperReplay  Tamper = "replay"  // challenge and answer of an earlier boot
)

// Tampers lists them all.
func Tampers() []Tamper {
	return []Tamper{TamperUKI, TamperKernel, TamperInitrd, TamperCmdline, TamperLog, TamperM4, TamperReplay}
}

// Refusal is what must stop a boot with t: the loader's stage, and a part of the reason that it shows.
func (t Tamper) Refusal() (stage, reason string) {
	switch t {
	case TamperUKI: // the UKI's section that holds the initramfs
		return "attest", "loader: PCR 11, "
	case TamperKernel:
		return "attest", "artifact kernel"
	case TamperInitrd:
		return "attest", "artifact layer"
	case TamperCmdline:
		return "attest", "artifact cmdline"
	case TamperLog:
		return "attest", "log: loader's log"
	case TamperM4, TamperReplay:
		return "attest", "server signature does not verify"
	}
	return "", ""
}

// tamper makes the change.
func (l *Lab) tamper(ctx context.Context) error {
	switch l.o.Tamper {
	case "":
		return nil
	case TamperUKI:
		return l.tamperUKI(ctx)
	case TamperKernel, TamperInitrd, TamperCmdline:
		return l.tamperImage(ctx)
	case TamperLog, TamperM4:
		return l.intercept(ctx, l.o.Tamper.change())
	case TamperReplay:
		return l.tamperReplay(ctx)
	}
	return fmt.Errorf("there is no way to tamper with %q; there are %v", l.o.Tamper, Tampers())
}

// tamperUKI builds the loader once more, for a site config that no one predicted.
func (l *Lab) tamperUKI(ctx context.Context) error {
	raw, err := os.ReadFile(l.siteJSON)
	if err != nil {
		return err
	}
	changed := bytes.Replace(raw, []byte(`"rounds": 2`), []byte(`"rounds": 3`), 1)
	if bytes.Equal(raw, changed) {
		return errors.New("the site config has no rounds to change")
	}
	path := l.path("site-tampered.json")
	if err := os.WriteFile(path, changed, 0o644); err != nil {
		return err
	}
	l.loader = l.path("loader-tampered")
	return l.buildLoaderTo(ctx, path, l.loader)
}

// tamperImage pushes a changed image behind the same tag.
func (l *Lab) tamperImage(ctx context.Context) error {
	image, err := l.image()
	if err != nil {
		return err
	}
	if image, err = l.o.Tamper.apply(image); err != nil {
		return err
	}
	return l.pushImage(ctx, l.path("tampered"), image)
}

// image is the operating system's.
func (l *Lab) image() (v1.Image, error) {
	index, err := layout.ImageIndexFromPath(l.facts.layout)
	if err != nil {
		return nil, err
	}
	manifest, err := index.IndexManifest()
	if err != nil {
		return nil, err
	}
	return index.Image(manifest.Manifests[0].Digest)
}

// pushImage keeps an image in dir and pushes it behind the tag that machines boot.
func (l *Lab) pushImage(ctx context.Context, dir string, image v1.Image) error {
	if err := keep(image, dir); err != nil {
		return err
	}
	return l.push(ctx, dir)
}

// keep makes a layout of an image, tagged "latest".
func keep(image v1.Image, dir string) error {
	to, err := layout.Write(dir, empty.Index)
	if err != nil {
		return err
	}
	return to.AppendImage(image, layout.WithAnnotations(map[string]string{"org.opencontainers.image.ref.name": "latest"}))
}

func (t Tamper) apply(image v1.Image) (v1.Image, error) {
	switch t {
	case TamperCmdline:
		config, err := image.ConfigFile()
		if err != nil {
			return nil, err
		}
		config = config.DeepCopy()
		if config.Config.Labels == nil {
			config.Config.Labels = map[string]string{}
		}
		config.Config.Labels[osimage.AnnotationCmdline] = "init=/bin/sh"
		return mutate.ConfigFile(image, config)
	case TamperKernel:
		name, kernel, err := findKernel(image)
		if err != nil {
			return nil, err
		}
		kernel[len(kernel)-1] ^= 1
		return appendFiles(image, file{name, 0o644, kernel})
	}
	return appendFiles(image, file{"etc/motd", 0o644, []byte("changed\n")})
}

// findKernel reads the kernel out of an image's layers.
func findKernel(image v1.Image) (string, []byte, error) {
	root := mutate.Extract(image)
	defer root.Close()
	files := tar.NewReader(root)
	for {
		h, err := files.Next()
		if err != nil {
			return "", nil, fmt.Errorf("find the image's kernel: %w", err)
		}
		if strings.Contains(h.Name, "lib/modules/") && strings.HasSuffix(h.Name, "/vmlinuz") {
			b, err := io.ReadAll(files)
			return h.Name, b, err
		}
	}
}

// file is one to be put into an image.
type file struct {
	name    string // without a leading slash
	mode    int64
	content []byte
}

// appendFiles adds a layer.
func appendFiles(image v1.Image, files ...file) (v1.Image, error) {
	var b bytes.Buffer
	w := tar.NewWriter(&b)
	for _, f := range files {
		h := &tar.Header{Name: f.name, Mode: f.mode, Size: int64(len(f.content)), ModTime: time.Unix(1, 0)}
		if err := w.WriteHeader(h); err != nil {
			return nil, err
		}
		if _, err := w.Write(f.content); err != nil {
			return nil, err
		}
	}
	if err := w.Close(); err != nil {
		return nil, err
	}
	layer, err := tarball.LayerFromOpener(func() (io.ReadCloser, error) { return io.NopCloser(bytes.NewReader(b.Bytes())), nil })
	if err != nil {
		return nil, err
	}
	return mutate.AppendLayers(image, layer)
}

// intercept puts a man in the middle between the device and attestd. He has the
// site CA's own certificate for attestd: TLS is broken on purpose.
func (l *Lab) intercept(ctx context.Context, change tamperer) error {
	s, err := site.Load(l.site, time.Now)
	if err != nil {
		return err
	}
	certificate, err := serverCertificate(s.CA)
	if err != nil {
		return err
	}
	l.server.Stop(5 * time.Second)
	front := l.attestd
	if l.attestd, err = freePort(); err != nil {
		return err
	}
	if err := l.startAttestd(ctx); err != nil {
		return err
	}
	l.middle, err = newMITM(front, certificate, fmt.Sprintf("https://127.0.0.1:%d", l.attestd), change)
	return err
}

func serverCertificate(authority *ca.CA) (*tls.Certificate, error) {
	key, err := ca.NewKey()
	if err != nil {
		return nil, err
	}
	text, err := authority.Server(key.Public(), []string{guestHost})
	if err != nil {
		return nil, err
	}
	leaf, err := ca.Parse(text)
	if err != nil {
		return nil, err
	}
	return &tls.Certificate{Certificate: [][]byte{leaf.Raw}, PrivateKey: key, Leaf: leaf}, nil
}

// change is what the man in the middle does to messages.
func (t Tamper) change() tamperer {
	return func(x *exchange) error {
		if t == TamperLog && x.path == wire.PathEvidence {
			body, err := editJSON(x.request, "eventLog", func(log []byte) { log[len(log)-1] ^= 1 })
			if err != nil {
				return err
			}
			return x.forwardToServer(body)
		}
		if err := x.forwardToServer(x.request); err != nil {
			return err
		}
		if t == TamperM4 && x.path == wire.PathEvidence {
			return plantKey(x)
		}
		return nil
	}
}

// plantKey exchanges the box of secrets in M4 for another, and leaves everything
// else as attestd has signed it.
func plantKey(x *exchange) error {
	answer, err := editJSON(x.answer, "payload", func(payload []byte) {
		edited, err := editJSON(payload, "box", func(box []byte) { box[len(box)/2] ^= 1 })
		if err == nil && len(edited) == len(payload) {
			copy(payload, edited)
		}
	})
	if err == nil {
		x.answer = answer
	}
	return err
}

// editJSON changes one base64 field of a message in place.
func editJSON(message []byte, field string, change func([]byte)) ([]byte, error) {
	var fields map[string]json.RawMessage
	if err := json.Unmarshal(message, &fields); err != nil {
		return nil, err
	}
	var value []byte
	if err := json.Unmarshal(fields[field], &value); err != nil || len(value) == 0 {
		return nil, fmt.Errorf("the message has no %s to change", field)
	}
	before, err := json.Marshal(value)
	if err != nil {
		return nil, err
	}
	change(value)
	after, err := json.Marshal(value)
	if err != nil {
		return nil, err
	}
	return bytes.Replace(message, before, after, 1), nil
}

// tamperReplay lets one boot go through and records it, then answers the next
// one from the record.
func (l *Lab) tamperReplay(ctx context.Context) error {
	var record []*exchange
	replaying := false
	err := l.intercept(ctx, func(x *exchange) error {
		recorded := x.path == wire.PathChallenge || x.path == wire.PathEvidence
		if !replaying || !recorded {
			if recorded {
				record = append(record, x)
			}
			return x.forwardToServer(x.request)
		}
		i := slices.IndexFunc(record, func(old *exchange) bool { return old.path == x.path })
		if i < 0 {
			return errors.New("nothing recorded")
		}
		x.answer, x.status, x.contentType = record[i].answer, record[i].status, record[i].contentType
		return nil
	})
	if err != nil {
		return err
	}
	// The agent of that boot cannot authenticate itself past a man in the
	// middle, so that its loader was given a release is all that is asked.
	if _, err := l.Boot(ctx, l.Machine()); err != nil {
		return fmt.Errorf("the boot to be recorded: %w", err)
	}
	if !slices.ContainsFunc(record, func(x *exchange) bool { return x.path == wire.PathEvidence && x.status == http.StatusOK }) {
		return fmt.Errorf("the boot to be recorded was given no release; its console is in %s", l.path("vm", "console.log"))
	}
	replaying = true
	return nil
}

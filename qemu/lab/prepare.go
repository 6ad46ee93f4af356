package lab

import (
	"cmp"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"time"

	"github.com/sealboot/sealboot/board"
	"github.com/sealboot/sealboot/initramfs"
	"github.com/sealboot/sealboot/measure/atomicfile"
	"github.com/sealboot/sealboot/measure/fwlog/armor"
	"github.com/sealboot/sealboot/qemu"
	"github.com/sealboot/sealboot/qemu/osbuild"
)

// cmdline is the operating system's: the site config adds it to the image's own. The
// check of timers panics where a busy host lets the emulated one tick late.
const cmdline = "console=ttyS0,115200 no_timer_check quiet panic=10 sealboot.demo=poweroff"

// sealboot runs the operator's tool.
func (l *Lab) sealboot(ctx context.Context, args ...string) (string, error) {
	out, err := l.run(ctx, l.o.Source, filepath.Join(l.bin, "sealboot"), args...)
	if err != nil {
		return "", fmt.Errorf("sealboot %s: %w", strings.Join(args[:min(2, len(args))], " "), err)
	}
	return out, nil
}

func (l *Lab) buildTools(ctx context.Context) error {
	cmd := exec.Command("go", "build", "-v", "-trimpath", "-o", l.bin+"/", "./cmds/sealboot", "./cmds/attestd")
	cmd.Dir = l.o.Source
	cmd.Env = append(os.Environ(), "CGO_ENABLED=0")
	_, err := runCommand(ctx, l.stages.line, cmd)
	return err
}

func (l *Lab) tpmDir() string { return l.unitPath("tpm") }

func (l *Lab) dataDisk() string { return l.unitPath("data.img") }

func (l *Lab) makeTPM(ctx context.Context) error { return qemu.CreateTPM(ctx, l.tpmDir(), l.tpm) }

// makeSite creates the site, its site config, and starts the servers.
func (l *Lab) makeSite(ctx context.Context) error {
	for _, port := range []*int{&l.registry, &l.attestd, &l.admin} {
		var err error
		if *port, err = freePort(); err != nil {
			return err
		}
	}
	roots := l.path("tpm-makers.pem")
	if err := concat(roots, certificates(l.tpm.CA)...); err != nil {
		return err
	}
	if _, err := l.sealboot(ctx, "site", "init", "--dir", l.site, "--name", "lab", "--ek-roots", roots,
		"--url", fmt.Sprintf("https://%s:%d", guestHost, l.attestd)); err != nil {
		return err
	}
	var err error
	if l.images, err = startRegistry(ctx, l.path("registry"), l.registry); err != nil {
		return err
	}
	return l.startAttestd(ctx)
}

func certificates(dir string) []string {
	issuer, root := qemu.CACertificate(dir)
	return []string{issuer, root}
}

// startAttestd starts the server, at first and after a crash.
func (l *Lab) startAttestd(ctx context.Context) error {
	address := fmt.Sprintf("127.0.0.1:%d", l.attestd)
	cmd := exec.Command(filepath.Join(l.bin, "attestd"), "serve", "--dir", l.site, "--listen", address,
		"--admin", fmt.Sprintf("127.0.0.1:%d", l.admin), "--evidence", l.path("evidence"))
	var err error
	l.server, err = startService(ctx, l.path("attestd.log"), address, cmd)
	return err
}

// siteConfig writes the site config for a way to boot.
func (l *Lab) siteConfig(ctx context.Context) error {
	sources, err := l.sources(ctx)
	if err != nil {
		return err
	}
	base := map[string]any{
		"site":      "lab",
		"sources":   sources,
		"cmdline":   cmdline,
		"buildTime": time.Now().UTC().Truncate(24 * time.Hour).Format(time.RFC3339),
		"console":   map[string]any{"lines": true, "json": "/dev/ttyS1"},
		"attestd":   map[string]any{"attempts": 2},
		"rounds":    2,
		"end":       "poweroff",
		"watchdog":  l.watchdog,
		"lab":       true,
	}
	text, err := json.MarshalIndent(base, "", "  ")
	if err != nil {
		return err
	}
	draft := l.path("site-draft.json")
	if err := os.WriteFile(draft, text, 0o644); err != nil {
		return err
	}
	out, err := l.sealboot(ctx, "site", "config", "--dir", l.site, "--from", draft)
	if err != nil {
		return err
	}
	return os.WriteFile(l.siteJSON, []byte(out), 0o644)
}

// makeImage builds the operating system and publishes it.
func (l *Lab) makeImage(ctx context.Context) error {
	image, err := osbuild.Build(ctx, osbuild.Options{
		Source: l.o.Source,
		Step:   func(s string) { l.stages.note("%s", s) },
		Log:    &lines{to: l.stages.line},
	})
	if err != nil {
		return err
	}
	l.facts.layout, l.facts.image = image.Layout, image.Digest
	l.stages.note("image %s", image.Digest)
	return l.push(ctx, image.Layout)
}

// imageRef is the image's name as seen from a host.
func (l *Lab) imageRef(host string) string {
	return fmt.Sprintf("%s:%d/sealboot/demo:latest", host, l.registry)
}

// push copies a layout to the registry with an ordinary tool.
func (l *Lab) push(ctx context.Context, layout string) error {
	_, err := l.run(ctx, l.o.Dir, "skopeo", "copy", "--quiet", "--dest-tls-verify=false",
		"oci:"+layout+":latest", "docker://"+l.imageRef("127.0.0.1"))
	if err != nil {
		return fmt.Errorf("%w; the registry's log ends with: %s", err, lastLines(l.images.log))
	}
	return nil
}

// buildLoader writes the site config and builds the loader with it inside.
func (l *Lab) buildLoader(ctx context.Context) error {
	if err := l.siteConfig(ctx); err != nil {
		return err
	}
	return l.buildLoaderTo(ctx, l.siteJSON, l.loader)
}

func (l *Lab) buildLoaderTo(ctx context.Context, site, dir string) error {
	tell := func(line string) {
		if strings.HasPrefix(line, "building ") {
			l.stages.note("%s", line)
			return
		}
		l.stages.line(line)
	}
	out, err := l.runTelling(ctx, tell, l.o.Source, filepath.Join(l.bin, "sealboot"),
		"build", "loader", "--verbose", "--source", l.o.Source, "--site", site, "-o", dir)
	if err != nil {
		return fmt.Errorf("sealboot build loader: %w", err)
	}
	for line := range strings.Lines(out) {
		l.stages.note("%s", strings.TrimSpace(line))
	}
	return nil
}

// recordProfile boots another machine of the same model, with another TPM and a
// dummy loader, and proposes a firmware profile from its event log. The log is
// kept by the hash of what decides it.
func (l *Lab) recordProfile(ctx context.Context) error {
	if err := l.buildRecorder(ctx); err != nil {
		return err
	}
	cache, err := os.UserCacheDir()
	if err != nil {
		return err
	}
	key, err := l.modelKey(ctx)
	if err != nil {
		return err
	}
	log := filepath.Join(cache, "sealboot", "profile", key+".log")
	if _, err := os.Stat(log); errors.Is(err, os.ErrNotExist) {
		if err := l.bootRecorder(ctx, log); err != nil {
			return err
		}
	} else if err != nil {
		return err
	} else {
		l.stages.note("the log of this machine model is in the cache")
	}
	_, err = l.sealboot(ctx, "predict", "profile", "--log", log, "--recorder", l.path("recorder", board.UKIFile),
		"--name", "qemu-q35-ovmf", "--root-of-trust", "virtual", "-o", l.path("profile.json"))
	return err
}

func (l *Lab) buildRecorder(ctx context.Context) error {
	_, err := board.QEMU().Build(ctx, board.Options{Out: l.path("recorder"), Initramfs: initramfs.Recorder(l.o.Source)})
	return err
}

// modelKey names a machine model: QEMU, its firmware, the shape of the machine, and the recorder.
func (l *Lab) modelKey(ctx context.Context) (string, error) {
	h := sha256.New()
	version, err := l.run(ctx, "/", "qemu-system-x86_64", "--version")
	if err != nil {
		return "", err
	}
	model := l.referenceMachine("tpm", "boot", "disk") // whatever their paths are
	fmt.Fprintf(h, "%s\n%s\n%s\n", version, model.Model(), l.o.Banks)
	for _, f := range []string{qemu.FirmwareCode(), l.path("recorder", board.UKIFile)} {
		b, err := os.ReadFile(f)
		if err != nil {
			return "", err
		}
		sum := sha256.Sum256(b)
		h.Write(sum[:])
	}
	return hex.EncodeToString(h.Sum(nil))[:32], nil
}

// referenceMachine is of the same model as the lab's machines.
func (l *Lab) referenceMachine(tpm, boot, disk string) qemu.Config {
	return qemu.Config{
		Dir: l.path("recorder", "vm"), Memory: l.o.Memory, TPM: tpm, Boot: boot,
		Disks: []qemu.Disk{{Path: disk, Serial: dataSerial}}, NoReboot: true,
	}
}

func (l *Lab) bootRecorder(ctx context.Context, log string) error {
	tpm := l.path("recorder", "tpm")
	if err := qemu.CreateTPM(ctx, tpm, l.tpm); err != nil {
		return err
	}
	vm, err := qemu.Start(ctx, l.referenceMachine(tpm, l.path("recorder", board.ESPFile), l.emptyDisk(l.path("recorder.img"))))
	if err != nil {
		return err
	}
	defer vm.Stop()
	_, err = vm.Wait(ctx, 20*time.Second)
	if err := referenceFailure(err, vm.Output()); err != nil {
		return fmt.Errorf("the reference machine: %w; run this again, and if it fails again see its console in %s", err, l.path("recorder", "vm", "console.log"))
	}
	if err := os.MkdirAll(filepath.Dir(log), 0o755); err != nil {
		return err
	}
	return atomicfile.Write(log, []byte(vm.Output()), 0o644) // the next run must not find half of it
}

// lastWords are what a machine says that could not print its log.
var lastWords = regexp.MustCompile(`(recorder: |Kernel panic - ).*`)

// referenceFailure tells why there is no log on the console of a machine that
// ran the recorder and ended as waited says.
func referenceFailure(waited error, console string) error {
	if waited != nil {
		return waited
	}
	_, err := armor.Find([]byte(console))
	if said := lastWords.FindString(qemu.Plain(console)); err != nil && said != "" {
		return fmt.Errorf("%w: it said %q", err, said)
	}
	return err
}

// dataSerial is how the operating system finds the data disk.
const dataSerial = "sealdata"

// emptyDisk makes a blank disk; errors show when the machine is started.
func (l *Lab) emptyDisk(path string) string {
	if f, err := os.OpenFile(path, os.O_CREATE|os.O_EXCL|os.O_WRONLY, 0o600); err == nil {
		_ = f.Truncate(64 << 20)
		f.Close()
	}
	return path
}

// predict computes the reference values and gives them to the site.
func (l *Lab) predict(ctx context.Context) error {
	loader, image, rules := l.path("loader.json"), l.path("image.json"), l.path("rules.json")
	if err := l.predictLoader(ctx, "loader", loader); err != nil {
		return err
	}
	if _, err := l.sealboot(ctx, "predict", "image", "--site", l.siteJSON, "--name", "demo", "--image-version", "1",
		"--plain-http", "-o", image, l.imageRef("127.0.0.1")); err != nil {
		return err
	}
	if _, err := l.sealboot(ctx, "policy", "rules", "--root-of-trust", "virtual", "-o", rules); err != nil {
		return err
	}
	_, err := l.sealboot(ctx, "policy", "add", "--dir", l.site, loader, image, l.path("profile.json"), rules)
	return err
}

// predictLoader computes the loader's reference values.
func (l *Lab) predictLoader(ctx context.Context, name, file string) error {
	_, err := l.sealboot(ctx, "predict", "loader", "--uki", filepath.Join(l.loader, board.UKIFile), "--site", l.siteJSON,
		"--name", name, "-o", file)
	return err
}

// enrol registers the machine by its TPM, as a provisioning station does.
func (l *Lab) enrol(ctx context.Context) error {
	socket, stop, err := qemu.ServeTPM(ctx, l.tpmDir())
	if err != nil {
		return err
	}
	defer stop()
	out, err := l.sealboot(ctx, "enrol", "--dir", l.site, "--label", cmp.Or(l.unit, "lab-1"), "--tpm", "unix:"+socket)
	if err != nil {
		return err
	}
	for line := range strings.Lines(out) {
		l.stages.note("%s", strings.TrimSpace(line))
	}
	l.facts.device, _, _ = strings.Cut(out, " ")
	return nil
}

// concat writes one file after another.
func concat(to string, from ...string) error {
	var all []byte
	for _, f := range from {
		b, err := os.ReadFile(f)
		if err != nil {
			return err
		}
		all = append(all, b...)
	}
	return os.WriteFile(to, all, 0o644)
}

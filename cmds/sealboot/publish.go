package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"os"
	"strings"

	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
	"github.com/spf13/cobra"
	"github.com/spf13/pflag"

	"github.com/sealboot/sealboot/attest/policy"
	"github.com/sealboot/sealboot/boot/config"
	"github.com/sealboot/sealboot/boot/image/osimage"
	"github.com/sealboot/sealboot/boot/publish/ocipush"
	"github.com/sealboot/sealboot/boot/source/oci"
	"github.com/sealboot/sealboot/cmds/internal/loader"
	"github.com/sealboot/sealboot/measure/floor"
	"github.com/sealboot/sealboot/measure/redact"
)

// connectionFlags are the flags that say how a registry is reached.
type connectionFlags struct {
	plainHTTP                  bool
	ca, cert, key, auth, proxy string
}

func (f *connectionFlags) add(flags *pflag.FlagSet, prefix string) {
	flags.BoolVar(&f.plainHTTP, prefix+"plain-http", false, "reach the registry without TLS")
	flags.StringVar(&f.ca, prefix+"ca", "", "`file` with the CA certificates of the registry (PEM)")
	flags.StringVar(&f.cert, prefix+"client-cert", "", "`file` with a client certificate (PEM)")
	flags.StringVar(&f.key, prefix+"client-key", "", "`file` with its private key (PEM)")
	flags.StringVar(&f.auth, prefix+"authfile", "", "`file` with credentials, as Docker's config.json")
	flags.StringVar(&f.proxy, prefix+"proxy", "", "HTTP proxy, a `URL`")
}

func (f *connectionFlags) connection() (oci.Connection, error) {
	conn := oci.Connection{PlainHTTP: f.plainHTTP}
	for _, file := range []struct {
		path string
		to   *[]byte
	}{{f.ca, &conn.CA}, {f.cert, &conn.Cert}, {f.key, &conn.Key}, {f.auth, &conn.DockerConfig}} {
		if file.path == "" {
			continue
		}
		b, err := os.ReadFile(file.path)
		if err != nil {
			return conn, err
		}
		*file.to = b
	}
	if f.proxy != "" {
		u, err := url.Parse(f.proxy)
		if err != nil {
			return conn, fmt.Errorf("proxy: %w", redact.Error(err))
		}
		conn.Proxy = http.ProxyURL(u)
	}
	return conn, nil
}

type publishFlags struct {
	artifact        ocipush.Artifact
	cmdline         string
	container       string
	annotations     []string
	version         uint64
	numbered        bool // the version is given
	signKeys        []string
	signatureForm   string
	identity        string
	referenceValues string
	conn            connectionFlags
}

func newPublishCmd() *cobra.Command {
	f := &publishFlags{}
	cmd := &cobra.Command{
		Use:   "publish LOCATION",
		Short: "Put an image into a registry or a layout, sign it, print its digest",
		Long: `Publish makes an image that a loader can boot and puts it where LOCATION says:
"registry/name:tag", "oci:DIRECTORY:TAG" or "oci-archive:FILE:TAG".

The image is one of: a kernel with, perhaps, an initrd and a device tree
(--kernel); a UKI (--uki); a disk (--disk: raw, also with gzip, zstd or xz,
or qcow2); a container image that another tool has made (--container, itself a
location). The manifest of a container image gets an annotation with the size
of its unpacked root, unless it has one, and with it another digest; "sealboot
copy" moves an image with its digest and signatures.

The version (--image-version, a number that grows with every release) becomes an
annotation of the manifest too, and is signed with it. Once a version was reported
healthy on a device, the device boots no older one, and none without a version.
Reference values must be of the same version.

With --sign, every image of a multi-platform one is signed.

A private key for --sign is PKCS #8 in PEM, or cosign's; the password of the
latter is read from the environment variable COSIGN_PASSWORD.`,
		Example: `  sealboot publish registry.example/os:1 --image-version 1 --kernel vmlinuz --initrd initrd.img --cmdline "console=ttyS0"
  sealboot publish registry.example/os:2 --image-version 2 --container oci-archive:os.tar:latest --sign cosign.key`,
		Args: cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			if cmd.Flags().Changed("cmdline") {
				f.artifact.Cmdline = &f.cmdline
			}
			f.numbered = cmd.Flags().Changed("image-version")
			desc, err := f.run(cmd.Context(), cmd.ErrOrStderr(), args[0])
			if err != nil {
				return fmt.Errorf("publishing %s: %w", args[0], loader.Hint(redact.Error(err), "--ca", "--plain-http"))
			}
			_, err = fmt.Fprintln(cmd.OutOrStdout(), desc.Digest)
			return err
		},
	}
	flags := cmd.Flags()
	flags.StringVar(&f.artifact.Kernel, "kernel", "", "kernel `file`")
	flags.StringVar(&f.artifact.Initrd, "initrd", "", "initrd `file`")
	flags.StringVar(&f.artifact.DTB, "dtb", "", "device tree `file`")
	flags.StringVar(&f.cmdline, "cmdline", "", "the image's part of the kernel command line")
	flags.StringVar(&f.artifact.UKI, "uki", "", "unified kernel image, a `file`")
	flags.StringVar(&f.artifact.Disk, "disk", "", "disk image `file`")
	flags.StringVar(&f.artifact.Verity, "verity-root", "", "dm-verity root hash of the disk, in `hex`: is measured, and must be on the command line")
	flags.StringVar(&f.container, "container", "", "container image, a `location`")
	flags.Uint64Var(&f.version, "image-version", 0, "the image's version for the rollback floor, at least 1, which devices do not go below")
	flags.StringArrayVar(&f.annotations, "annotation", nil, "`NAME=VALUE` for the manifest; can be repeated")
	flags.StringArrayVar(&f.signKeys, "sign", nil, "sign with the private key in `file`; can be repeated")
	flags.StringVar(&f.signatureForm, "signature-form", "both", "cosign's `form`: classic, bundle or both")
	flags.StringVar(&f.identity, "identity", "", "the `repository` that the signatures name (default LOCATION's, if that is in a registry)")
	flags.StringVar(&f.referenceValues, "reference-values", "", "attach this `file` of reference values, made by \"sealboot predict image\"")
	f.conn.add(flags, "")
	return cmd
}

func (f *publishFlags) run(ctx context.Context, progress io.Writer, where string) (desc ocispec.Descriptor, err error) {
	if err := f.checkIdentity(); err != nil {
		return desc, err
	}
	signers, err := f.signers()
	if err != nil {
		return desc, err
	}
	version, err := f.imageVersion()
	if err != nil {
		return desc, err
	}
	dst, err := openTarget(ctx, where, &f.conn)
	if err != nil {
		return desc, err
	}
	defer func() { err = errors.Join(err, dst.Close()) }()
	_, show, end := newBar(progress, "pushed")
	watched, flush := dst.Watched(show)
	if desc, err = f.image(ctx, watched, version); err == nil {
		flush()
	}
	end()
	if err != nil {
		return desc, err
	}
	if f.referenceValues != "" {
		if _, err := ocipush.AttachReferenceValues(ctx, dst, desc, f.referenceValues); err != nil {
			return desc, err
		}
	}
	if len(signers) > 0 {
		if err := f.sign(ctx, dst, desc, f.named(where), signers); err != nil {
			return desc, err
		}
	}
	return desc, dst.Finish()
}

// sign signs all of an image with every key.
func (f *publishFlags) sign(ctx context.Context, dst *ocipush.Target, image ocispec.Descriptor, reference string, signers []*ocipush.Signer) error {
	all, err := ocipush.Signable(ctx, dst, image)
	if err != nil {
		return err
	}
	for _, d := range all {
		for _, s := range signers {
			if f.signatureForm != "bundle" {
				if err := s.SignClassic(ctx, dst, d, reference); err != nil {
					return err
				}
			}
			if f.signatureForm != "classic" {
				if err := s.SignBundle(ctx, dst, d, reference); err != nil {
					return err
				}
			}
		}
	}
	return nil
}

// imageVersion is the version that the image is to have: that of the flag or of
// the reference values, which must not differ. Nil means that nothing was said.
func (f *publishFlags) imageVersion() (*uint64, error) {
	var version *uint64
	if f.numbered {
		if err := checkImageVersion(f.version); err != nil {
			return nil, fmt.Errorf("--image-version %d: %w", f.version, err)
		}
		version = &f.version
	}
	if f.referenceValues == "" {
		return version, nil
	}
	raw, err := os.ReadFile(f.referenceValues)
	if err != nil {
		return nil, fmt.Errorf("--reference-values: %w", err)
	}
	// A document that was signed is attached as it is. Who signed it is for the
	// site to judge that adds it.
	var signed struct {
		Document json.RawMessage `json:"document"`
	}
	if json.Unmarshal(raw, &signed) == nil && signed.Document != nil {
		raw = signed.Document
	}
	doc, err := policy.Parse(raw)
	if err != nil {
		return nil, fmt.Errorf("--reference-values %s: %w", f.referenceValues, err)
	}
	values, ok := doc.(*policy.Image)
	if !ok {
		return nil, fmt.Errorf("--reference-values %s: it is no reference of an image; make one with sealboot predict image", f.referenceValues)
	}
	if version != nil && *version != values.ImageVersion {
		return nil, fmt.Errorf("--reference-values %s: they are of version %d, and the image is published as version %d: a device that has "+
			"run one would refuse the other", f.referenceValues, values.ImageVersion, *version)
	}
	return &values.ImageVersion, nil
}

// checkImageVersion refuses a version that the floor of a new machine does.
func checkImageVersion(v uint64) error {
	if v == 0 || floor.CheckPublished(v) != nil {
		return fmt.Errorf("want 1 to %d, or no new machine boots the image", uint64(floor.MaxJump))
	}
	return nil
}

// annotate gives the artifact its annotations, the version among them.
func (f *publishFlags) annotate(version *uint64) error {
	annotations, err := parseAnnotations(f.annotations)
	if err != nil {
		return err
	}
	f.artifact.Annotations = annotations
	have, err := osimage.VersionOf(annotations)
	if err == nil && have != 0 {
		err = checkImageVersion(have)
	}
	if err == nil && version != nil && *version != 0 { // reference values may have none
		err = checkImageVersion(*version)
	}
	switch {
	case err != nil || version == nil || have == *version:
		return err
	case have != 0:
		return fmt.Errorf("%w: the annotation %s says %d, --image-version or the reference values %d", ocipush.ErrVersion, osimage.AnnotationVersion, have, *version)
	case annotations == nil:
		f.artifact.Annotations = make(map[string]string)
	}
	f.artifact.Annotations[osimage.AnnotationVersion] = osimage.FormatVersion(*version)
	return nil
}

// checkIdentity refuses what no signature would name, or no site config can demand.
func (f *publishFlags) checkIdentity() error {
	switch {
	case f.identity == "":
		return nil
	case len(f.signKeys) == 0:
		return errors.New("--identity goes with --sign: it is in the signatures")
	case !config.IsRepository(f.identity):
		return fmt.Errorf("--identity %q: want registry/repository without a tag, as a site config demands it", f.identity)
	}
	return nil
}

// named is the repository that signatures name: a site config can demand it.
func (f *publishFlags) named(where string) string {
	if f.identity != "" {
		return f.identity
	}
	l, err := ocipush.ParseLocation(where)
	if err != nil {
		return "" // it was parsed when it was opened
	}
	return l.Repository()
}

// image pushes the image itself and tags it.
func (f *publishFlags) image(ctx context.Context, dst *ocipush.Target, version *uint64) (ocispec.Descriptor, error) {
	if err := f.annotate(version); err != nil {
		return ocispec.Descriptor{}, err
	}
	if f.container != "" {
		if f.artifact.Kernel != "" || f.artifact.UKI != "" || f.artifact.Disk != "" || f.artifact.Cmdline != nil || len(f.annotations) > 0 {
			return ocispec.Descriptor{}, errors.New("--container is an image by itself: give no other file, command line or annotation")
		}
		src, err := openSource(ctx, f.container, &f.conn)
		if err != nil {
			return ocispec.Descriptor{}, err
		}
		desc, err := ocipush.Container(ctx, src, dst, version)
		return desc, errors.Join(err, src.Close())
	}
	desc, err := f.artifact.Push(ctx, dst)
	if err != nil || dst.Reference == "" {
		return desc, err
	}
	return desc, dst.Tag(ctx, desc, dst.Reference)
}

func (f *publishFlags) signers() ([]*ocipush.Signer, error) {
	switch f.signatureForm {
	case "classic", "bundle", "both":
	default:
		return nil, fmt.Errorf("signature form %q: want classic, bundle or both", f.signatureForm)
	}
	var signers []*ocipush.Signer
	for _, path := range f.signKeys {
		b, err := os.ReadFile(path)
		if err != nil {
			return nil, err
		}
		s, err := ocipush.ParseSigner(b, []byte(os.Getenv("COSIGN_PASSWORD")))
		clear(b)
		if err != nil {
			return nil, fmt.Errorf("%s: %w", path, err)
		}
		signers = append(signers, s)
	}
	return signers, nil
}

func parseAnnotations(list []string) (map[string]string, error) {
	var m map[string]string
	for _, s := range list {
		name, value, ok := strings.Cut(s, "=")
		if !ok || name == "" {
			return nil, fmt.Errorf("annotation %q: want NAME=VALUE", s)
		}
		if m == nil {
			m = make(map[string]string)
		}
		m[name] = value
	}
	return m, nil
}

package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/url"
	"os"
	"strings"

	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
	"github.com/spf13/cobra"
	"github.com/spf13/pflag"

	"github.com/sealboot/sealboot/boot/oci"
	"github.com/sealboot/sealboot/boot/oci/publish"
	"github.com/sealboot/sealboot/cmds/internal/loader"
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
			return conn, fmt.Errorf("proxy: %w", err)
		}
		conn.Proxy = u
	}
	return conn, nil
}

type publishFlags struct {
	artifact        publish.Artifact
	cmdline         string
	container       string
	annotations     []string
	signKeys        []string
	signatureForm   string
	referenceValues string
	conn            connectionFlags
}

func newPublishCmd() *cobra.Command {
	f := &publishFlags{}
	cmd := &cobra.Command{
		Use:   "publish LOCATION",
		Short: "Put an image into a registry or a layout, sign it, print its digest",
		Long: `Publish makes an image that a loader can boot and puts it where LOCATION says:
"registry/name:tag", "oci:FOLDER:TAG" or "oci-archive:FILE:TAG".

The image is one of: a kernel with, perhaps, an initrd and a device tree
(--kernel); a UKI (--uki); a disk (--disk: raw, also with gzip, zstd or xz,
or qcow2); a container image that another tool has made (--container, itself a
location). The manifest of a container image gets an annotation with the size
of its unpacked root, unless it has one, and with it another digest; "sealboot
copy" moves an image with its digest and signatures.

A private key for --sign is PKCS #8 in PEM, or cosign's; the password of the
latter is read from the environment variable COSIGN_PASSWORD.`,
		Example: `  sealboot publish registry.example/os:1 --kernel vmlinuz --initrd initrd.img --cmdline "console=ttyS0"
  sealboot publish registry.example/os:2 --container oci-archive:os.tar:latest --sign cosign.key`,
		Args: cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			if cmd.Flags().Changed("cmdline") {
				f.artifact.Cmdline = &f.cmdline
			}
			desc, err := f.run(cmd.Context(), cmd.ErrOrStderr(), args[0])
			if err != nil {
				return fmt.Errorf("publishing %s: %w", args[0], loader.Hint(err, "--ca", "--plain-http"))
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
	flags.StringArrayVar(&f.annotations, "annotation", nil, "`NAME=VALUE` for the manifest; can be repeated")
	flags.StringArrayVar(&f.signKeys, "sign", nil, "sign with the private key in `file`; can be repeated")
	flags.StringVar(&f.signatureForm, "signature-form", "both", "cosign's `form`: classic, bundle or both")
	flags.StringVar(&f.referenceValues, "reference-values", "", "attach this `file` of reference values")
	f.conn.add(flags, "")
	return cmd
}

func (f *publishFlags) run(ctx context.Context, progress io.Writer, where string) (desc ocispec.Descriptor, err error) {
	signers, err := f.signers()
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
	if desc, err = f.image(ctx, watched); err == nil {
		flush()
	}
	end()
	if err != nil {
		return desc, err
	}
	if f.referenceValues != "" {
		if _, err := publish.AttachReferenceValues(ctx, dst, desc, f.referenceValues); err != nil {
			return desc, err
		}
	}
	for _, s := range signers {
		if f.signatureForm != "bundle" {
			if err := s.SignClassic(ctx, dst, desc, where); err != nil {
				return desc, err
			}
		}
		if f.signatureForm != "classic" {
			if err := s.SignBundle(ctx, dst, desc); err != nil {
				return desc, err
			}
		}
	}
	return desc, dst.Finish()
}

// image pushes the image itself and tags it.
func (f *publishFlags) image(ctx context.Context, dst *publish.Target) (ocispec.Descriptor, error) {
	var err error
	if f.artifact.Annotations, err = parseAnnotations(f.annotations); err != nil {
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
		desc, err := publish.Container(ctx, src, dst)
		return desc, errors.Join(err, src.Close())
	}
	desc, err := f.artifact.Push(ctx, dst)
	if err != nil || dst.Reference == "" {
		return desc, err
	}
	return desc, dst.Tag(ctx, desc, dst.Reference)
}

func (f *publishFlags) signers() ([]*publish.Signer, error) {
	switch f.signatureForm {
	case "classic", "bundle", "both":
	default:
		return nil, fmt.Errorf("signature form %q: want classic, bundle or both", f.signatureForm)
	}
	var signers []*publish.Signer
	for _, path := range f.signKeys {
		b, err := os.ReadFile(path)
		if err != nil {
			return nil, err
		}
		s, err := publish.ParseSigner(b, []byte(os.Getenv("COSIGN_PASSWORD")))
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

// ociboot boots an operating system image from an OCI registry or an OCI
// layout.
//
//	ociboot [flags] REGISTRY/REPOSITORY[:TAG|@DIGEST]
//	ociboot [flags] DIRECTORY
//
// It fetches and verifies the image, measures it into the TPM, hands the event
// log over and starts the image's kernel with kexec. The network must be up.
// With --dry-run it measures and starts nothing, needs neither root nor a TPM,
// and prints what would be booted.
//
// Exit codes: 0 the dry run succeeded, 1 failed and nothing was measured, 2 the
// command line is wrong, 3 failed after the image was measured, so that the
// machine has to be reset. A boot that succeeds does not return.
package main

import (
	"crypto/tls"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"os"
	"strings"

	"github.com/sealboot/sealboot/boot/config"
	"github.com/sealboot/sealboot/cmds/internal/loader"
)

func main() { os.Exit(run(os.Args[1:])) }

func run(args []string) int { return loader.Run("ociboot", args, parse) }

const usage = `usage: ociboot [flags] REGISTRY/REPOSITORY[:TAG|@DIGEST] | DIRECTORY

Boot an image from a registry, or from a directory with an OCI layout.

  ociboot --dry-run registry.example/os:1            look at it, on any Linux machine
  ociboot --key release.pub registry.example/os:1    boot it if this key has signed it
  ociboot --site site.json registry.example/os:1     and get the release of its site

Flags:
`

func parse(args []string) (*loader.Machine, *loader.Flags, error) {
	var f loader.Flags
	s := f.Set("ociboot", usage)
	var keys, mirrors loader.Strings
	s.Var(&keys, "key", "`FILE` with a public key (PEM) that must have signed the image; may be repeated")
	threshold := s.Int("threshold", 0, "how many of the keys must have signed (default all)")
	identity := s.String("identity", "", "`REGISTRY/REPOSITORY` that the signatures must name")
	s.Var(&mirrors, "mirror", "`REGISTRY/REPOSITORY` with the same image; may be repeated")
	tag := s.String("tag", "", "`TAG` or digest in a layout that has several images")
	authFile := s.String("auth", "", "`FILE` with registry credentials, a Docker config.json")
	certFile := s.String("client-cert", "", "`FILE` with a client certificate (PEM) for the registry")
	keyFile := s.String("client-key", "", "`FILE` with its private key (PEM)")
	if err := s.Parse(args); err != nil {
		return nil, nil, err
	}
	if s.NArg() != 1 {
		s.Usage()
		return nil, nil, fmt.Errorf("want one image, found %d arguments", s.NArg())
	}
	src := config.Source{Type: config.SourceOCI, Ref: s.Arg(0), Mirrors: mirrors, Threshold: *threshold, Identity: *identity}
	o := loader.Options{}
	if isDirectory(s.Arg(0)) {
		src.Type, src.Ref, o.Layout = config.SourceMedia, *tag, s.Arg(0)
	} else if *tag != "" {
		return nil, nil, errors.New("--tag goes with a directory")
	}
	var err error
	if src.Keys, err = readKeys(keys); err != nil {
		return nil, nil, err
	}
	if src.Threshold < 0 || src.Threshold > len(src.Keys) {
		return nil, nil, fmt.Errorf("--threshold: want at most %d, the number of keys, found %d", len(src.Keys), src.Threshold)
	}
	if src.Identity != "" && len(src.Keys) == 0 {
		return nil, nil, errors.New("--identity goes with --key: it is signatures that name a repository")
	}
	if src.Auth, err = clientCert(*certFile, *keyFile); err != nil {
		return nil, nil, err
	}
	if *authFile != "" {
		if o.DockerConfig, err = os.ReadFile(*authFile); err != nil {
			return nil, nil, fmt.Errorf("--auth: %w", err)
		}
	}
	m, err := f.Machine(src, o)
	return m, &f, err
}

// clientCert reads a client certificate and its key; nil if there is none.
func clientCert(certFile, keyFile string) (*config.Auth, error) {
	if certFile == "" && keyFile == "" {
		return nil, nil
	}
	cert, err := os.ReadFile(certFile)
	if err != nil {
		return nil, fmt.Errorf("--client-cert: %w", err)
	}
	key, err := os.ReadFile(keyFile)
	if err != nil {
		return nil, fmt.Errorf("--client-key: %w", err)
	}
	if _, err := tls.X509KeyPair(cert, key); err != nil {
		return nil, fmt.Errorf("--client-cert: %w", err)
	}
	return &config.Auth{Cert: string(cert), Key: string(key)}, nil
}

// isDirectory tells a path from a reference, which never begins with "." or "/".
func isDirectory(arg string) bool {
	if strings.HasPrefix(arg, "/") || strings.HasPrefix(arg, ".") {
		return true
	}
	st, err := os.Stat(arg)
	return err == nil && st.IsDir()
}

func readKeys(paths []string) ([][]byte, error) {
	var keys [][]byte
	for _, path := range paths {
		text, err := os.ReadFile(path)
		if err != nil {
			return nil, fmt.Errorf("--key: %w", err)
		}
		block, _ := pem.Decode(text)
		if block == nil {
			return nil, fmt.Errorf("--key %s: want a public key in PEM, found something else", path)
		}
		if _, err := x509.ParsePKIXPublicKey(block.Bytes); err != nil {
			return nil, fmt.Errorf("--key %s: want a public key in PEM: %w", path, err)
		}
		keys = append(keys, block.Bytes)
	}
	return keys, nil
}

package tufrepo

import (
	"archive/tar"
	"context"
	"crypto"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/theupdateframework/go-tuf/v2/metadata"

	"github.com/sealboot/sealboot/boot/source/tuf"
	"github.com/sealboot/sealboot/boot/source/tuf/bundle"
	"github.com/sealboot/sealboot/measure/atomicfile"
)

// maxMetadata bounds what is read of a bundle that somebody else hands over, in
// bytes: the client's limit for targets metadata.
const maxMetadata = 5_000_000

// Seal is what the seal of a bundle says, and what it lacks.
type Seal struct {
	Expires   time.Time
	Timestamp int64 // the version of the timestamp that it pins
	Missing   Missing
}

// newSeal makes the statement of a bundle of p; see [tuf.SealType].
func newSeal(p *published, now time.Time, lifetime time.Duration) *targetsMD {
	md := metadata.Targets(now.UTC().Truncate(time.Second).Add(lifetime))
	md.Signed.Type = tuf.SealType
	md.Signed.Version = p.state.Timestamp.Version
	md.Signed.Targets[sealedFile] = sealed(p)
	return md
}

const sealedFile = tuf.RoleTimestamp + ".json"

// sealed is what a seal says of the timestamp of p.
func sealed(p *published) *metadata.TargetFiles {
	data := p.bytes[tuf.RoleTimestamp]
	sum := sha256.Sum256(data)
	return &metadata.TargetFiles{Length: int64(len(data)), Hashes: metadata.Hashes{"sha256": sum[:]}}
}

// sealEdit is a seal as a change: of the role targets, whose keys sign it.
func sealEdit(p *published, md *targetsMD) *Edit {
	return &Edit{
		published: &published{},
		roles:     map[string]any{tuf.RoleRoot: p.roles[tuf.RoleRoot], tuf.RoleTargets: md},
		changed:   map[string]bool{tuf.RoleTargets: true},
	}
}

// confirmSeal shows the operator what the keys would seal.
func (r *Repo) confirmSeal(p *published, md *targetsMD, files []string, keys []crypto.Signer) error {
	if r.operator.Confirm == nil || len(keys) == 0 {
		return nil
	}
	var signing []string
	for _, a := range sealEdit(p, md).authorities(tuf.RoleTargets) {
		for _, key := range keys {
			signing = append(signing, a.idsOf(key)...)
		}
	}
	return r.operator.Confirm(sealDiff(p, md, files, unique(signing)))
}

// signSeal adds the signatures of those keys that are of the targets role: one at
// least, if any is given.
func signSeal(p *published, md *targetsMD, keys []crypto.Signer) ([]byte, Missing, error) {
	e := sealEdit(p, md)
	if len(keys) > 0 && !e.anyTrusted(keys) {
		return nil, Missing{}, fmt.Errorf("%w: keys of the role %s seal a bundle, and none was given", ErrChange, tuf.RoleTargets)
	}
	if err := e.sign(keys); err != nil {
		return nil, Missing{}, err
	}
	var missing Missing
	if !e.complete(tuf.RoleTargets) {
		missing = e.missing(tuf.RoleTargets)
	}
	data, err := encode(md)
	return data, missing, err
}

// Seal signs the seal of a bundle of this repository, a tar or a directory, with more
// keys: keys that are kept in different places meet in no other way. The bundle
// comes from somewhere else, so that all of its metadata has to verify from the
// operator's root and above the versions that he has seen. Without keys it only
// tells what the seal says.
func (r *Repo) Seal(ctx context.Context, path string, keys []crypto.Signer) (Seal, error) {
	if r.memory.Root == nil {
		return Seal{}, r.untrusted()
	}
	b, err := bundle.Open(ctx, path, nil)
	if err != nil {
		return Seal{}, err
	}
	defer b.Close()
	md, err := sealOf(ctx, b)
	if err != nil {
		return Seal{}, fmt.Errorf("%s: %w", path, err)
	}
	p, err := r.followBundle(ctx, b, md)
	if err != nil {
		return Seal{}, fmt.Errorf("%w: the bundle %s: %w", ErrTampered, path, err)
	}
	if err := r.confirmSeal(p, md, nil, keys); err != nil {
		return Seal{}, err
	}
	seal := Seal{Expires: md.Signed.Expires, Timestamp: md.Signed.Version}
	data, missing, err := signSeal(p, md, keys)
	if err != nil {
		return Seal{}, fmt.Errorf("%s: %w", path, err)
	}
	seal.Missing = missing
	if len(keys) == 0 {
		return seal, nil
	}
	return seal, writeSeal(path, data)
}

// followBundle verifies the metadata of a bundle, and that it is what the seal says.
func (r *Repo) followBundle(ctx context.Context, b *bundle.Bundle, md *targetsMD) (*published, error) {
	f, err := newFollower(b.Directory, r.memory.Root, &r.memory, tuf.Never())
	if err != nil {
		return nil, err
	}
	p, err := f.follow(ctx)
	if err != nil {
		return nil, err
	}
	if err := r.memory.checkDelegated(p.versions); err != nil {
		return nil, err
	}
	if len(md.Signed.Targets) != 1 || md.Signed.Targets[sealedFile] == nil || md.Signed.Delegations != nil ||
		compact(md.Signed.Targets[sealedFile]) != compact(sealed(p)) || md.Signed.Version != p.state.Timestamp.Version {
		return nil, fmt.Errorf("%w: its seal is not one of the timestamp in it", tuf.ErrUnverified)
	}
	return p, nil
}

// sealOf reads the seal of a bundle.
func sealOf(ctx context.Context, b *bundle.Bundle) (*targetsMD, error) {
	if _, err := b.Metadata(ctx, "1.root.json", maxMetadata); err != nil {
		if errors.Is(err, tuf.ErrNotFound) {
			err = fmt.Errorf("%w: there is no root in it", ErrChange)
		}
		return nil, err
	}
	data, err := b.Seal(ctx, maxMetadata)
	if err != nil {
		return nil, err
	}
	role, err := decode(tuf.RoleTargets, data)
	if err != nil {
		return nil, err
	}
	md := role.(*targetsMD)
	if md.Signed.Type != tuf.SealType {
		return nil, fmt.Errorf("%w: its %s is not a seal", ErrChange, bundle.SealFile)
	}
	return md, nil
}

// writeSeal replaces the seal of the bundle at path.
func writeSeal(path string, seal []byte) error {
	st, err := os.Stat(path)
	if err != nil {
		return err
	}
	if st.IsDir() {
		return atomicfile.Write(filepath.Join(path, bundle.SealFile), seal, 0o644)
	}
	return atomicfile.Fill(path, 0o644, func(f *os.File) error {
		old, err := os.Open(path)
		if err != nil {
			return err
		}
		defer old.Close()
		return copyTar(f, old, seal)
	})
}

// copyTar copies a tar, with another seal in it.
func copyTar(dst io.Writer, src io.Reader, seal []byte) error {
	w := tar.NewWriter(dst)
	for r := tar.NewReader(src); ; {
		h, err := r.Next()
		if err == io.EOF {
			return w.Close()
		}
		if err != nil {
			return err
		}
		if strings.TrimPrefix(h.Name, "./") == bundle.SealFile {
			err = addBytes(w, h.Name, seal)
		} else if err = w.WriteHeader(h); err == nil {
			_, err = io.Copy(w, r)
		}
		if err != nil {
			return err
		}
	}
}

package repo

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

	"github.com/sealboot/sealboot/boot/tuf"
	"github.com/sealboot/sealboot/boot/tuf/bundle"
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

// seal makes and signs the statement of a bundle; see [tuf.SealType].
func (r *Repo) seal(published map[string]any, now time.Time, b Bundle) ([]byte, Missing, error) {
	md := metadata.Targets(now.UTC().Truncate(time.Second).Add(b.Lifetime))
	md.Signed.Type = tuf.SealType
	md.Signed.Version = *fieldsOf(published[tuf.RoleTimestamp]).version
	name := tuf.RoleTimestamp + ".json"
	data, err := os.ReadFile(r.path(bundle.MetadataDir, name))
	if err != nil {
		return nil, Missing{}, err
	}
	sum := sha256.Sum256(data)
	md.Signed.Targets[name] = &metadata.TargetFiles{Length: int64(len(data)), Hashes: metadata.Hashes{"sha256": sum[:]}}
	return signSeal(published[tuf.RoleRoot], md, b.Keys)
}

// signSeal adds the signatures of those keys that are of the targets role: one at
// least, if any is given.
func signSeal(root any, md *targetsMD, keys []crypto.Signer) ([]byte, Missing, error) {
	e := &Edit{roles: map[string]any{tuf.RoleRoot: root, tuf.RoleTargets: md}, changed: map[string]bool{tuf.RoleTargets: true}}
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

// AddSeal signs the seal of a bundle, a tar or a folder, with more keys: keys that
// are kept in different places meet in no other way. Which keys may is said by the
// newest root in the bundle. Without keys it only tells what the seal says.
func AddSeal(ctx context.Context, path string, keys []crypto.Signer) (Seal, error) {
	b, err := bundle.Open(path)
	if err != nil {
		return Seal{}, err
	}
	defer b.Close()
	root, md, err := sealOf(ctx, b)
	if err != nil {
		return Seal{}, fmt.Errorf("%s: %w", path, err)
	}
	seal := Seal{Expires: md.Signed.Expires, Timestamp: md.Signed.Version}
	data, missing, err := signSeal(root, md, keys)
	if err != nil {
		return Seal{}, fmt.Errorf("%s: %w", path, err)
	}
	seal.Missing = missing
	if len(keys) == 0 {
		return seal, nil
	}
	return seal, writeSeal(path, data)
}

// sealOf reads the seal of a bundle and the newest root in it.
func sealOf(ctx context.Context, b *bundle.Bundle) (root any, md *targetsMD, err error) {
	for version := 1; ; version++ {
		data, err := b.Metadata(ctx, fmt.Sprintf("%d.root.json", version), maxMetadata)
		if errors.Is(err, tuf.ErrNotFound) {
			break
		}
		if err == nil {
			root, err = decode(tuf.RoleRoot, data)
		}
		if err != nil {
			return nil, nil, err
		}
	}
	if root == nil {
		return nil, nil, fmt.Errorf("%w: there is no root in it", ErrChange)
	}
	data, err := b.Seal(ctx, maxMetadata)
	if err != nil {
		return nil, nil, err
	}
	role, err := decode(tuf.RoleTargets, data)
	if err != nil {
		return nil, nil, err
	}
	md = role.(*targetsMD)
	if md.Signed.Type != tuf.SealType {
		return nil, nil, fmt.Errorf("%w: its %s is not a seal", ErrChange, bundle.SealFile)
	}
	return root, md, nil
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

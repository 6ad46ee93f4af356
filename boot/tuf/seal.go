package tuf

import (
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"time"

	"github.com/theupdateframework/go-tuf/v2/metadata"
)

// SealType is the "_type" of a seal: the shape of targets metadata under
// another name, so that neither can be passed off as the other.
const SealType = "sealboot-bundle"

// seal is the verified statement of an offline bundle: which metadata files it
// was made of, and until when they may be used.
type seal struct {
	files map[string]*metadata.TargetFiles
}

// acceptSeal verifies the seal of a repository with the keys and the threshold
// of the targets role, and puts its expiry in the place of the timestamp's.
func (c *Client) acceptSeal(ctx context.Context, repo Sealed, t *trust) error {
	data, err := repo.Seal(ctx, c.cfg.Limits.Targets)
	if err != nil {
		return fmt.Errorf("tuf: seal of %s: %w", repo, err)
	}
	return guard("seal", func() error {
		md, err := parse("seal", data, checkSeal)
		if err != nil {
			return err
		}
		if err := t.set.Root.VerifyDelegate(RoleTargets, md); err != nil {
			return unverified("seal", err)
		}
		if err := t.checkExpiry("seal", md.Signed.Expires); err != nil {
			return err
		}
		t.seal = &seal{files: md.Signed.Targets}
		t.set.RefTime = time.Time{} // go-tuf finds nothing expired; checkExpiry does
		return nil
	})
}

func checkSeal(s *metadata.TargetsType) error {
	if err := checkCommon(SealType, s.Type, s.SpecVersion, s.Version, s.Expires); err != nil {
		return err
	}
	if s.Delegations != nil {
		return errors.New("it has delegations")
	}
	if s.Targets[RoleTimestamp+".json"] == nil {
		return errors.New("it does not name a timestamp")
	}
	return nil
}

// check refuses a file that is not the one that was sealed. No seal refuses
// nothing. The timestamp is enough: it names the rest.
func (s *seal) check(name string, data []byte) error {
	if s == nil {
		return nil
	}
	f := s.files[name]
	if f == nil {
		return fmt.Errorf("tuf: %s: %w: it is not in the seal", name, ErrUnverified)
	}
	want := wantOf(f)
	sum := sha256.Sum256(data)
	if int64(len(data)) != want.Size || string(want.SHA256) != string(sum[:]) {
		return fmt.Errorf("tuf: %s: %w: it is not what was sealed", name, ErrUnverified)
	}
	return nil
}

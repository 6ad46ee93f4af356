package tuf

import (
	"bytes"
	"context"
	"errors"
	"fmt"

	"github.com/theupdateframework/go-tuf/v2/metadata"
)

// SealType is the "_type" of a seal: the shape of targets metadata under
// another name, so that neither can be passed off as the other.
const SealType = "sealboot-bundle"

const sealedFile = RoleTimestamp + ".json"

// seal is the verified statement of an offline bundle: the timestamp that it
// was made of, which names the rest, and until when all of that may be used.
type seal struct{ timestamp Want }

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
		if err := md.verifiedBy(grantOfRoot(&t.root.Signed, RoleTargets)); err != nil {
			return unverified("seal", err)
		}
		if err := t.checkExpiry("seal", md.Signed.Expires); err != nil {
			return err
		}
		t.seal = &seal{wantOf(md.Signed.Targets[sealedFile])}
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
	if s.Targets[sealedFile] == nil {
		return errors.New("it does not name a timestamp")
	}
	return nil
}

// check refuses a timestamp that is not the one that was sealed. No seal
// refuses nothing.
func (s *seal) check(timestamp []byte) error {
	if s == nil {
		return nil
	}
	if err := s.timestamp.Check(bytes.NewReader(timestamp)); err != nil {
		return fmt.Errorf("tuf: timestamp: %w: it is not what was sealed: %w", ErrUnverified, err)
	}
	return nil
}

package tufrepo

import (
	"crypto/sha256"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"net/url"
	"os"
	"slices"
	"strings"

	"github.com/sealboot/sealboot/boot/source/tuf"
	"github.com/sealboot/sealboot/measure/plaintext"
)

// addDraft puts the draft on top. A draft that is not the next version of what
// is published is out of date, and dropped: this process was killed before it
// could, or somebody published past it.
func (e *Edit) addDraft() error {
	dir, err := e.repo.below(draftDir)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("the draft: %w; drop it", err)
	}
	defer dir.Close()
	draft, files, err := readDraft(dir)
	if err != nil {
		return fmt.Errorf("the draft: %w; drop it or repair it", err)
	}
	for name, role := range draft {
		if *fieldsOf(role).version == e.published.version(name)+1 {
			continue
		}
		if name != tuf.RoleSnapshot && name != tuf.RoleTimestamp {
			return e.repo.DropDraft()
		}
		delete(draft, name) // renewed meanwhile; settle makes the next
	}
	for name, role := range draft {
		e.roles[name] = role
		e.changed[name] = true
		e.origin[name] = files[name]
	}
	if len(draft) > 0 {
		e.draft = draftDigest(files)
	}
	return e.checkDraft()
}

// readDraft reads the roles in a directory, and the files that they are in.
func readDraft(dir *os.Root) (roles map[string]any, files map[string][]byte, err error) {
	entries, err := fs.ReadDir(dir.FS(), ".")
	if err != nil {
		return nil, nil, err
	}
	roles, files = map[string]any{}, map[string][]byte{}
	for _, entry := range entries {
		file, isRole := strings.CutSuffix(entry.Name(), ".json")
		name, err := url.PathUnescape(file)
		if !isRole || err != nil || name == "" {
			continue
		}
		if plaintext.Escape(name) != name { // it goes to terminals before anybody has vouched for it
			return nil, nil, fmt.Errorf("%w: a role called %+q", ErrDraft, name)
		}
		data, err := readFile(dir, entry.Name())
		if err != nil {
			return nil, nil, err
		}
		if err := tuf.Check(name, data); err != nil {
			return nil, nil, err
		}
		if roles[name], err = decode(name, data); err != nil {
			return nil, nil, err
		}
		files[name] = data
	}
	return roles, files, nil
}

// draftDigest tells drafts apart, as sha256:HEX.
func draftDigest(files map[string][]byte) string {
	h := sha256.New()
	for _, name := range slices.Sorted(maps.Keys(files)) {
		fmt.Fprintf(h, "%q %x\n", name, sha256.Sum256(files[name]))
	}
	return fmt.Sprintf("sha256:%x", h.Sum(nil))
}

// foreignDraft says whether there is a draft that this operator has not saved.
func (e *Edit) foreignDraft() bool {
	return e.draft != "" && !slices.Contains(e.repo.memory.Drafts, e.draft)
}

// checkDraft refuses a draft that was changed after somebody had signed it. Such a
// signature is worth nothing, but the next signer should learn of it.
func (e *Edit) checkDraft() error {
	for _, name := range slices.Sorted(maps.Keys(e.changed)) {
		signed := map[string]bool{}
		for _, s := range *fieldsOf(e.roles[name]).signatures {
			signed[s.KeyID] = true
		}
		for _, a := range e.authorities(name) {
			for _, id := range a.keyIDs {
				if plaintext.Escape(id) != id { // as for names of roles
					return fmt.Errorf("%w: a key called %+q", ErrDraft, id)
				}
				if !signed[id] {
					continue
				}
				if err := a.verify([]string{id}, 1); err != nil {
					return fmt.Errorf("%w: %s in the draft was changed after the key %s had signed it, or the signature is damaged; drop it with \"sealboot tuf discard\": %w", ErrDraft, name, id, err)
				}
			}
		}
	}
	return nil
}

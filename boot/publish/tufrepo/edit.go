package tufrepo

import (
	"crypto"
	"fmt"
	"maps"
	"slices"
	"time"

	"github.com/theupdateframework/go-tuf/v2/metadata"

	"github.com/sealboot/sealboot/boot/publish/sign"
	"github.com/sealboot/sealboot/boot/source/tuf"
	"github.com/sealboot/sealboot/boot/source/tuf/image"
	"github.com/sealboot/sealboot/measure/floor"
)

// Edit is a repository while it is being changed.
type Edit struct {
	repo      *Repo
	now       time.Time
	published *published
	roles     map[string]any  // as they will be
	changed   map[string]bool // which of them need signatures
	dirty     map[string]bool // changed just now: signatures of the draft are void
	draft     string          // digest of the draft below the change, if there is one

	// origin has the files that roles were read from, published or in the draft.
	origin map[string][]byte
}

func newEdit(r *Repo, now time.Time, p *published) *Edit {
	e := &Edit{
		repo: r, now: now.UTC().Truncate(time.Second), published: p,
		roles: map[string]any{}, changed: map[string]bool{}, dirty: map[string]bool{},
		origin: map[string][]byte{},
	}
	maps.Copy(e.roles, p.roles)
	maps.Copy(e.origin, p.bytes)
	return e
}

// touch returns a role for changing, with its next version.
func (e *Edit) touch(name string) (any, error) {
	if e.dirty[name] {
		return e.roles[name], nil
	}
	md := e.roles[name]
	if md == nil {
		return nil, fmt.Errorf("%w: there is no role %q", ErrChange, name)
	}
	md, err := clone(name, md)
	if err != nil {
		return nil, err
	}
	f := fieldsOf(md)
	*f.version = e.published.version(name) + 1
	life := f.lifetime(name)
	f.setLifetime(life)
	*f.expires = e.now.Add(life)
	*f.signatures = []metadata.Signature{}
	e.roles[name], e.changed[name], e.dirty[name] = md, true, true
	return md, nil
}

func (e *Edit) root() *rootMD { md, _ := e.roles[tuf.RoleRoot].(*rootMD); return md }

// signable refuses roles that could never be signed, where a draft would wait for
// signatures that do not come, and images that no new machine would take.
func (e *Edit) signable() error {
	for name := range e.changed {
		if err := e.bootableVersions(name); err != nil {
			return err
		}
	}
	for name := range e.dirty {
		for role, a := range e.granted(name) {
			if have := len(a.keyIDs); have < a.threshold {
				return fmt.Errorf("%w: %s would need %d signatures and have %d keys", ErrChange, role, a.threshold, have)
			}
		}
	}
	return nil
}

// bootableVersions looks at the images that are new in a role, also in a draft that was
// edited by hand.
func (e *Edit) bootableVersions(role string) error {
	t, ok := e.roles[role].(*targetsMD)
	if !ok {
		return nil
	}
	old, _ := e.published.roles[role].(*targetsMD)
	for name, f := range t.Signed.Targets {
		if f.Custom == nil || old != nil && customOf(old.Signed.Targets[name]) == string(*f.Custom) {
			continue
		}
		if c, err := image.ParseCustom(*f.Custom); err == nil {
			if err := floor.CheckPublished(c.Version); err != nil {
				return fmt.Errorf("%w: target %q: %w", ErrChange, name, err)
			}
		}
	}
	return nil
}

func customOf(f *metadata.TargetFiles) string {
	if f == nil || f.Custom == nil {
		return ""
	}
	return string(*f.Custom)
}

// granted are the roles whose keys the role called name says.
func (e *Edit) granted(name string) map[string]authority {
	all := map[string]authority{}
	switch md := e.roles[name].(type) {
	case *rootMD:
		for role := range md.Signed.Roles {
			all[role], _ = grant(md, role)
		}
	case *targetsMD:
		if d := md.Signed.Delegations; d != nil {
			for _, r := range d.Roles {
				all[r.Name], _ = grant(md, r.Name)
			}
		}
	}
	return all
}

// settle changes what has to follow from what was changed: roles whose keys this
// change has taken away are signed anew, the snapshot names the versions, and the
// timestamp the snapshot. No other role is, whatever is wrong with it.
func (e *Edit) settle() error {
	if e.root() == nil {
		return fmt.Errorf("%w: there is no repository yet; create one", ErrChange)
	}
	for _, name := range topLevel {
		if e.roles[name] == nil {
			return fmt.Errorf("%w: there is no role %s, neither published nor in the draft", ErrChange, name)
		}
	}
	for again := true; again; {
		again = false
		for _, name := range slices.Sorted(maps.Keys(e.roles)) {
			if e.changed[name] || name == tuf.RoleRoot || !e.altered(name) || e.complete(name) || len(e.authorities(name)) == 0 {
				continue // no one can sign a role that no one delegates to
			}
			if _, err := e.touch(name); err != nil {
				return err
			}
			again = true
		}
	}
	if err := e.settleSnapshot(); err != nil {
		return err
	}
	return e.settleTimestamp()
}

func (e *Edit) settleSnapshot() error {
	meta := map[string]*metadata.MetaFiles{}
	for name, md := range e.roles {
		if t, ok := md.(*targetsMD); ok {
			meta[name+".json"] = &metadata.MetaFiles{Version: t.Signed.Version}
		}
	}
	old := e.roles[tuf.RoleSnapshot].(*snapshotMD).Signed.Meta
	if e.dirty[tuf.RoleSnapshot] || !names(old, meta) {
		md, err := e.touch(tuf.RoleSnapshot)
		if err != nil {
			return err
		}
		snapshot := &md.(*snapshotMD).Signed
		for name, m := range meta {
			// An entry that did not change keeps what else another tool put there.
			if o := snapshot.Meta[name]; o == nil || o.Version != m.Version {
				snapshot.Meta[name] = m
			}
		}
	}
	return nil
}

func (e *Edit) settleTimestamp() error {
	version := e.roles[tuf.RoleSnapshot].(*snapshotMD).Signed.Version
	const name = tuf.RoleSnapshot + ".json"
	old := e.roles[tuf.RoleTimestamp].(*timestampMD).Signed.Meta[name]
	if old != nil && old.Version == version {
		return nil
	}
	md, err := e.touch(tuf.RoleTimestamp)
	if err != nil {
		return err
	}
	md.(*timestampMD).Signed.Meta[name] = &metadata.MetaFiles{Version: version}
	return nil
}

// names says whether a snapshot has all these versions. It may have more: a
// role must never vanish from it.
func names(snapshot, meta map[string]*metadata.MetaFiles) bool {
	for name, m := range meta {
		if old := snapshot[name]; old == nil || old.Version != m.Version {
			return false
		}
	}
	return true
}

// authority is who may sign a role: a delegator with its keys.
type authority struct {
	role      string
	keys      map[string]*metadata.Key
	keyIDs    []string
	threshold int
	file      func() ([]byte, error) // what is to be signed
}

// grant returns whom a delegator lets sign a role, if it does.
func grant(delegator any, role string) (authority, bool) {
	switch md := delegator.(type) {
	case *rootMD:
		if r := md.Signed.Roles[role]; r != nil {
			return authority{role: role, keys: md.Signed.Keys, keyIDs: r.KeyIDs, threshold: r.Threshold}, true
		}
	case *targetsMD:
		d := md.Signed.Delegations
		if d == nil {
			break
		}
		if s := d.SuccinctRoles; s != nil && s.IsDelegatedRole(role) {
			return authority{role: role, keys: d.Keys, keyIDs: s.KeyIDs, threshold: s.Threshold}, true
		}
		for _, r := range d.Roles {
			if r.Name == role {
				return authority{role: role, keys: d.Keys, keyIDs: r.KeyIDs, threshold: r.Threshold}, true
			}
		}
	}
	return authority{}, false
}

// same says whether two authorities ask for the same signatures.
func (a authority) same(b authority) bool {
	key := func(a, b *metadata.Key) bool {
		return a == b || a != nil && b != nil && a.Type == b.Type && a.Scheme == b.Scheme && a.Value.PublicKey == b.Value.PublicKey
	}
	return a.threshold == b.threshold && slices.EqualFunc(a.keyIDs, b.keyIDs, func(x, y string) bool {
		return x == y && key(a.keys[x], b.keys[y])
	})
}

// altered says whether this change has altered who may sign a role.
func (e *Edit) altered(name string) bool {
	for delegator := range e.changed {
		before, was := grant(e.published.roles[delegator], name)
		after, is := grant(e.roles[delegator], name)
		if was != is || !before.same(after) {
			return true
		}
	}
	return false
}

// authorities returns everyone whose threshold a role has to meet. A root has
// two: the one before it and itself. A role has one a delegator.
func (e *Edit) authorities(name string) []authority {
	var delegators []any
	if name == tuf.RoleRoot {
		delegators = append(delegators, e.published.roles[tuf.RoleRoot])
	}
	for _, delegator := range slices.Sorted(maps.Keys(e.roles)) {
		delegators = append(delegators, e.roles[delegator])
	}
	var all []authority
	for _, delegator := range delegators {
		if a, ok := grant(delegator, name); ok {
			a.file = func() ([]byte, error) { return e.encode(name) }
			all = append(all, a)
		}
	}
	return all
}

// complete says whether a role has all the signatures that it needs.
func (e *Edit) complete(name string) bool {
	all := e.authorities(name)
	for _, a := range all {
		if a.check() != nil {
			return false
		}
	}
	return len(all) > 0
}

// check says whether the threshold is met.
func (a authority) check() error { return a.verify(a.keyIDs, a.threshold) }

// verify says whether so many of the keys have signed. Another tool, or a damaged
// draft, may have written the metadata.
func (a authority) verify(ids []string, threshold int) error {
	data, err := a.file()
	if err != nil {
		return err
	}
	return tuf.Verify(data, a.keys, ids, threshold)
}

// sign signs every changed role with every key that may.
func (e *Edit) sign(keys []crypto.Signer) error {
	for name := range e.changed {
		for _, a := range e.authorities(name) {
			for _, key := range keys {
				if err := e.signAs(name, a, key); err != nil {
					return err
				}
			}
		}
	}
	return nil
}

// idsOf are the identifiers under which the authority asks for a signature of key.
func (a authority) idsOf(key crypto.Signer) []string {
	return slices.DeleteFunc(sign.IDs(a.keys, key.Public()), func(id string) bool { return !slices.Contains(a.keyIDs, id) })
}

// trusts says whether anybody trusts a role to be signed with key.
func (e *Edit) trusts(name string, key crypto.Signer) bool {
	return slices.ContainsFunc(e.authorities(name), func(a authority) bool { return len(a.idsOf(key)) > 0 })
}

// anyTrusted says whether one of the keys has anything to sign.
func (e *Edit) anyTrusted(keys []crypto.Signer) bool {
	for name := range e.changed {
		if slices.ContainsFunc(keys, func(key crypto.Signer) bool { return e.trusts(name, key) }) {
			return true
		}
	}
	return false
}

func (e *Edit) signAs(name string, a authority, key crypto.Signer) error {
	for _, id := range a.idsOf(key) {
		data, err := e.encode(name)
		if err != nil {
			return err
		}
		payload, err := tuf.Payload(data)
		if err != nil {
			return fmt.Errorf("%s: %w", name, err)
		}
		sig, err := sign.Bytes(key, payload)
		if err != nil {
			return fmt.Errorf("%s: %w", name, err)
		}
		all := fieldsOf(e.roles[name]).signatures
		*all = slices.DeleteFunc(*all, func(s metadata.Signature) bool { return s.KeyID == id })
		*all = append(*all, metadata.Signature{KeyID: id, Signature: sig})
	}
	return nil
}

func (e *Edit) status() Status {
	s := Status{Versions: map[string]int64{}, Missing: map[string]Missing{}}
	for name := range e.changed {
		s.Versions[name] = *fieldsOf(e.roles[name]).version
		if !e.complete(name) {
			s.Missing[name] = e.missing(name)
		}
	}
	return s
}

func (e *Edit) missing(name string) Missing {
	var m Missing
	for _, a := range e.authorities(name) {
		if a.check() == nil {
			continue
		}
		have := 0
		for _, id := range a.keyIDs {
			signed := slices.ContainsFunc(*fieldsOf(e.roles[name]).signatures,
				func(s metadata.Signature) bool { return s.KeyID == id })
			if signed {
				have++
			} else if !slices.Contains(m.Keys, id) {
				m.Keys = append(m.Keys, id)
			}
		}
		m.Need = max(m.Need, a.threshold-have, 1)
	}
	slices.Sort(m.Keys)
	return m
}

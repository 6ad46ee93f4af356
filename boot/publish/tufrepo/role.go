package tufrepo

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net/url"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"github.com/theupdateframework/go-tuf/v2/metadata"

	"github.com/sealboot/sealboot/boot/base/regular"
	"github.com/sealboot/sealboot/boot/source/tuf"
	"github.com/sealboot/sealboot/boot/source/tuf/bundle"
)

// Short names for what go-tuf parses. A role of unknown type is any.
type (
	rootMD      = metadata.Metadata[metadata.RootType]
	timestampMD = metadata.Metadata[metadata.TimestampType]
	snapshotMD  = metadata.Metadata[metadata.SnapshotType]
	targetsMD   = metadata.Metadata[metadata.TargetsType]
)

// fields are the members that every role has.
type fields struct {
	version    *int64
	expires    *time.Time
	unknown    *map[string]any
	signatures *[]metadata.Signature
}

func fieldsOf(md any) fields {
	switch m := md.(type) {
	case *rootMD:
		return fields{&m.Signed.Version, &m.Signed.Expires, &m.Signed.UnrecognizedFields, &m.Signatures}
	case *timestampMD:
		return fields{&m.Signed.Version, &m.Signed.Expires, &m.Signed.UnrecognizedFields, &m.Signatures}
	case *snapshotMD:
		return fields{&m.Signed.Version, &m.Signed.Expires, &m.Signed.UnrecognizedFields, &m.Signatures}
	case *targetsMD:
		return fields{&m.Signed.Version, &m.Signed.Expires, &m.Signed.UnrecognizedFields, &m.Signatures}
	}
	panic(fmt.Sprintf("repo: %T is not a role", md)) // none else is ever made
}

// Lifetimes of roles that nothing else is known of.
var defaultLifetime = map[string]time.Duration{
	tuf.RoleRoot:      365 * 24 * time.Hour,
	tuf.RoleTimestamp: 7 * 24 * time.Hour,
	tuf.RoleSnapshot:  90 * 24 * time.Hour,
	tuf.RoleTargets:   365 * 24 * time.Hour, // delegated ones too
}

// lifetime is for how long a role is signed: what it says itself, or a default.
func (f fields) lifetime(role string) time.Duration {
	if h, ok := (*f.unknown)[tuf.LifetimeField].(float64); ok && h >= 1 {
		return time.Duration(h) * time.Hour
	}
	if d, ok := defaultLifetime[role]; ok {
		return d
	}
	return defaultLifetime[tuf.RoleTargets]
}

func (f fields) setLifetime(d time.Duration) {
	if *f.unknown == nil {
		*f.unknown = map[string]any{}
	}
	(*f.unknown)[tuf.LifetimeField] = float64(d / time.Hour)
}

func newRole(name string) any {
	switch name {
	case tuf.RoleRoot:
		return &rootMD{}
	case tuf.RoleTimestamp:
		return &timestampMD{}
	case tuf.RoleSnapshot:
		return &snapshotMD{}
	}
	return &targetsMD{}
}

func encode(md any) ([]byte, error) {
	data, err := json.Marshal(md)
	if err != nil {
		return nil, fmt.Errorf("encode metadata: %w", err)
	}
	return data, nil
}

func decode(name string, data []byte) (md any, err error) {
	defer func() {
		if r := recover(); r != nil {
			err = fmt.Errorf("parse %s: %v", name, r)
		}
	}()
	md = newRole(name)
	if err := json.Unmarshal(data, md); err != nil {
		return nil, fmt.Errorf("parse %s: %w", name, err)
	}
	if t, ok := md.(*targetsMD); ok {
		for target := range t.Signed.Targets {
			// Anyone who signs a delegated role must not make us touch other files.
			if !filepath.IsLocal(filepath.FromSlash(target)) {
				return nil, fmt.Errorf("parse %s: its target %.80q is not below %s", name, target, bundle.TargetsDir)
			}
		}
	}
	return md, nil
}

// clone copies a role, so that a change cannot reach what is published.
func clone(name string, md any) (any, error) {
	data, err := encode(md)
	if err != nil {
		return nil, err
	}
	return decode(name, data)
}

// readRoles reads the newest version of every role in a directory.
func readRoles(dir *os.Root) (map[string]any, error) {
	entries, err := fs.ReadDir(dir.FS(), ".")
	if err != nil {
		return nil, fmt.Errorf("read metadata: %w", err)
	}
	newest := map[string]string{}
	versions := map[string]int64{}
	for _, e := range entries {
		role, version, ok := parseName(e.Name())
		if ok && (newest[role] == "" || version > versions[role]) {
			newest[role], versions[role] = e.Name(), version
		}
	}
	roles := map[string]any{}
	for role, file := range newest {
		data, err := readFile(dir, file)
		if err != nil {
			return nil, fmt.Errorf("read metadata: %w", err)
		}
		if roles[role], err = decode(role, data); err != nil {
			return nil, fmt.Errorf("%s: %w", file, err)
		}
	}
	return roles, nil
}

// readFile reads a metadata file of a directory that anybody may have written to: no
// pipe, which would wait for ever, nothing outside, nothing larger than metadata is.
func readFile(dir *os.Root, name string) ([]byte, error) {
	f, err := regular.Open(dir, name, os.O_RDONLY, 0)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	data, err := io.ReadAll(io.LimitReader(f, maxMetadata+1))
	if err == nil && len(data) > maxMetadata {
		err = fmt.Errorf("%s: %w: more than %d bytes", name, tuf.ErrTooLarge, maxMetadata)
	}
	return data, err
}

// parseName splits VERSION.ROLE.json. A role whose own name begins with a
// number and a dot is taken for one with a version; no one names roles so.
func parseName(file string) (role string, version int64, ok bool) {
	name, ok := strings.CutSuffix(file, ".json")
	if !ok {
		return "", 0, false
	}
	if v, rest, cut := strings.Cut(name, "."); cut {
		if n, err := strconv.ParseInt(v, 10, 64); err == nil {
			name, version = rest, n
		}
	}
	role, err := url.PathUnescape(name)
	return role, version, err == nil && role != ""
}

// readPublished reads what the repository shows, without roles that the snapshot does
// not name any more. Nothing of it is verified, so it only serves to leave alone
// what clients may be reading, in a directory that is exported to. A directory that does
// not exist shows nothing.
func (r *Repo) readPublished() (map[string]any, error) {
	dir, err := r.below(bundle.MetadataDir)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	defer dir.Close()
	roles, err := readRoles(dir)
	if err != nil {
		return nil, err
	}
	snapshot, _ := roles[tuf.RoleSnapshot].(*snapshotMD)
	if snapshot == nil || roles[tuf.RoleRoot] == nil || roles[tuf.RoleTimestamp] == nil {
		return nil, fmt.Errorf("%s lacks a top-level role", dir.Name())
	}
	for name := range roles {
		switch name {
		case tuf.RoleRoot, tuf.RoleTimestamp, tuf.RoleSnapshot:
		default:
			if snapshot.Signed.Meta[name+".json"] == nil {
				delete(roles, name)
			}
		}
	}
	return roles, nil
}

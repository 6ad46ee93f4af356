package tufrepo

import (
	"bytes"
	"crypto"
	"encoding/json"
	"fmt"
	"maps"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/sealboot/sealboot/boot/source/tuf"
	"github.com/sealboot/sealboot/measure/plaintext"
)

// Diff is what would be signed, as a difference to what is published. It compares
// all members of the metadata, also those that this package knows nothing of.
type Diff struct {
	Roles []RoleDiff
	// Draft is the digest of the draft that is below the change, or empty. Foreign
	// says that this operator has not saved that draft himself.
	Draft   string
	Foreign bool
	// Expired says which published roles have expired and are not renewed here.
	Expired []string
}

// RoleDiff is the difference of one role.
type RoleDiff struct {
	Role     string
	From, To int64    // versions; From is 0 for a new role
	Lines    []string // begin with "+", "-" or "~": added, removed, changed
	Signed   []string // keys whose signatures the draft has
	Signing  []string // keys that would sign now
}

// String is the difference for people. All of it is printable ASCII, since some of
// it may have been written by somebody who hopes that it is read carelessly.
func (d Diff) String() string {
	var b strings.Builder
	for _, r := range d.Roles {
		name := plaintext.Escape(r.Role)
		if r.From == 0 {
			fmt.Fprintf(&b, "%s: new, version %d\n", name, r.To)
		} else {
			fmt.Fprintf(&b, "%s: version %d -> %d\n", name, r.From, r.To)
		}
		for _, line := range r.Lines {
			fmt.Fprintf(&b, "  %s\n", line)
		}
		if len(r.Signed) > 0 {
			fmt.Fprintf(&b, "  signed by %s\n", plaintext.Escape(strings.Join(r.Signed, ", ")))
		}
		if len(r.Signing) > 0 {
			fmt.Fprintf(&b, "  to be signed by %s\n", plaintext.Escape(strings.Join(r.Signing, ", ")))
		}
	}
	if d.Draft != "" {
		from := ""
		if d.Foreign {
			from = " (from somewhere else)" // nothing is glued to the digest, which goes to --draft
		}
		fmt.Fprintf(&b, "draft %s%s\n", d.Draft, from)
	}
	for _, e := range d.Expired {
		fmt.Fprintf(&b, "warning: %s\n", plaintext.Escape(e))
	}
	return b.String()
}

// confirm shows the operator what the keys would sign, if there is anything.
func (e *Edit) confirm(keys []crypto.Signer) error {
	ask := e.repo.operator.Confirm
	if ask == nil || !e.anyTrusted(keys) {
		return nil
	}
	d, err := e.diff(keys)
	if err != nil {
		return err
	}
	return ask(d)
}

// diff compares the changed roles with what is published.
func (e *Edit) diff(keys []crypto.Signer) (Diff, error) {
	d := Diff{Draft: e.draft, Foreign: e.foreignDraft()}
	for _, name := range slices.Sorted(maps.Keys(e.roles)) {
		if !e.changed[name] {
			if expires := *fieldsOf(e.roles[name]).expires; !e.now.Before(expires) {
				d.Expired = append(d.Expired, fmt.Sprintf("%s has expired at %s: devices refuse it until it is refreshed", name, expires.Format(time.RFC3339)))
			}
			continue
		}
		r, err := e.roleDiff(name, keys)
		if err != nil {
			return Diff{}, err
		}
		d.Roles = append(d.Roles, r)
	}
	return d, nil
}

func (e *Edit) roleDiff(name string, keys []crypto.Signer) (RoleDiff, error) {
	r := RoleDiff{Role: name, From: e.published.version(name), To: *fieldsOf(e.roles[name]).version}
	data, err := e.encode(name)
	if err != nil {
		return r, err
	}
	after, err := signedPart(data)
	if err != nil {
		return r, fmt.Errorf("compare %s: %w", name, err)
	}
	before := map[string]any{}
	if old := e.published.bytes[name]; old != nil {
		if before, err = signedPart(old); err != nil {
			return r, fmt.Errorf("compare %s: %w", name, err)
		}
	}
	delete(before, "version")
	delete(after, "version")
	r.Lines = compare("", before, after)
	for _, a := range e.authorities(name) {
		for _, id := range a.keyIDs {
			if a.verify([]string{id}, 1) == nil {
				r.Signed = append(r.Signed, id)
			}
		}
		for _, key := range keys {
			r.Signing = append(r.Signing, a.idsOf(key)...)
		}
	}
	r.Signed, r.Signing = unique(r.Signed), unique(r.Signing)
	return r, nil
}

func unique(s []string) []string { slices.Sort(s); return slices.Compact(s) }

// signedPart is what of a metadata file is signed, with numbers as they are written.
func signedPart(data []byte) (map[string]any, error) {
	var md struct{ Signed map[string]any }
	dec := json.NewDecoder(bytes.NewReader(data))
	dec.UseNumber()
	err := dec.Decode(&md)
	return md.Signed, err
}

// compare lists how two values differ, with the path of each difference.
func compare(path string, before, after any) []string {
	switch b := before.(type) {
	case map[string]any:
		if a, ok := after.(map[string]any); ok {
			return compareMaps(path, b, a)
		}
	case []any:
		if a, ok := after.([]any); ok {
			return compareLists(path, b, a)
		}
	}
	if was, is := compact(before), compact(after); was != is {
		return []string{fmt.Sprintf("~ %s: %s -> %s", path, was, is)}
	}
	return nil
}

func compareMaps(path string, before, after map[string]any) (lines []string) {
	names := maps.Clone(before)
	maps.Copy(names, after)
	for _, name := range slices.Sorted(maps.Keys(names)) {
		p := member(path, name)
		b, was := before[name]
		a, is := after[name]
		switch {
		case !was:
			lines = append(lines, fmt.Sprintf("+ %s: %s", p, compact(a)))
		case !is:
			lines = append(lines, fmt.Sprintf("- %s: %s", p, compact(b)))
		default:
			lines = append(lines, compare(p, b, a)...)
		}
	}
	return lines
}

// compareLists compares lists of named objects, such as delegations, by name, and
// others by their values. The order counts too: it is that in which roles are asked.
func compareLists(path string, before, after []any) []string {
	if b, a := byName(before), byName(after); b != nil && a != nil {
		lines := compareMaps(path, b, a)
		if was, is := order(before, a), order(after, b); !slices.Equal(was, is) {
			lines = append(lines, fmt.Sprintf("~ %s: order %s -> %s", path, plaintext.Escape(strings.Join(was, ", ")), plaintext.Escape(strings.Join(is, ", "))))
		}
		return lines
	}
	if compact(before) == compact(after) {
		return nil
	}
	var lines []string
	left := slices.Clone(after)
	for _, v := range before {
		i := slices.IndexFunc(left, func(x any) bool { return compact(x) == compact(v) })
		if i < 0 {
			lines = append(lines, fmt.Sprintf("- %s: %s", path, compact(v)))
			continue
		}
		left = slices.Delete(left, i, i+1)
	}
	for _, v := range left {
		lines = append(lines, fmt.Sprintf("+ %s: %s", path, compact(v)))
	}
	if len(lines) == 0 {
		lines = append(lines, fmt.Sprintf("~ %s: order %s -> %s", path, compact(before), compact(after)))
	}
	return lines
}

// byName returns a list of objects by their names, or nil if it is not one.
func byName(list []any) map[string]any {
	named := map[string]any{}
	for _, v := range list {
		object, _ := v.(map[string]any)
		name, ok := object["name"].(string)
		if _, twice := named[name]; !ok || twice {
			return nil
		}
		named[name] = object
	}
	return named
}

// order is the order of the names of a list that the other list has too.
func order(list []any, other map[string]any) (names []string) {
	for _, v := range list {
		name := v.(map[string]any)["name"].(string)
		if _, ok := other[name]; ok {
			names = append(names, name)
		}
	}
	return names
}

func member(path, name string) string {
	plain := strings.IndexFunc(name, func(r rune) bool {
		return (r < '0' || r > '9') && (r < 'a' || r > 'z') && (r < 'A' || r > 'Z') && r != '_' && r != '-'
	}) < 0 && name != ""
	if !plain {
		return path + "[" + strconv.QuoteToASCII(name) + "]"
	}
	if path == "" {
		return name
	}
	return path + "." + name
}

// compact is a value in one line of printable ASCII.
func compact(v any) string {
	var b bytes.Buffer
	enc := json.NewEncoder(&b)
	enc.SetEscapeHTML(false)
	if err := enc.Encode(v); err != nil {
		return fmt.Sprintf("%+q", fmt.Sprint(v))
	}
	return plaintext.Escape(strings.TrimSuffix(b.String(), "\n"))
}

// sealDiff is what a seal says, for its signer.
func sealDiff(p *published, md *targetsMD, files []string, signing []string) Diff {
	r := RoleDiff{Role: "seal of the bundle", To: md.Signed.Version, Signing: signing}
	r.Lines = append(r.Lines,
		fmt.Sprintf("+ expires: %s", md.Signed.Expires.UTC().Format(time.RFC3339)),
		fmt.Sprintf("+ timestamp: %s", compact(md.Signed.Targets[tuf.RoleTimestamp+".json"])))
	for _, name := range slices.Sorted(maps.Keys(p.roles)) {
		r.Lines = append(r.Lines, fmt.Sprintf("+ %s: version %d", plaintext.Escape(name), p.version(name)))
	}
	for _, file := range files {
		r.Lines = append(r.Lines, fmt.Sprintf("+ file: %s", compact(file)))
	}
	return Diff{Roles: []RoleDiff{r}}
}

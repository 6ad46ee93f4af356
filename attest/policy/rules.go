package policy

import (
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/sealboot/sealboot/measure/event"
)

// Rules are what a site demands beyond known images, loaders and platforms.
type Rules struct {
	Header
	RootsOfTrust []RootOfTrust `json:"rootsOfTrust"` // classes of platform that are accepted
	// Authority says what may stand in PCR 13. A record that matches no rule is a denial.
	Authority []RecordRule `json:"authority"`
	// Banks are the PCR banks that evidence may be in; none means SHA-256 alone. Which banks are active is the device's
	// word. One that its firmware does not extend is all zero, so that any OS can extend into it what another machine
	// would have measured. List "sha384" only if the firmware of every device extends that bank.
	Banks []string `json:"banks,omitempty"`
	// AllowUnverifiedDisk accepts a disk that no one verifies when it is booted again. It is then worth as little as
	// the machine's physical security.
	AllowUnverifiedDisk bool `json:"allowUnverifiedDisk,omitempty"`
}

// RecordRule matches records of one type. An empty list allows everything.
type RecordRule struct {
	Type     event.Type `json:"type"`
	Required bool       `json:"required,omitempty"` // at least one record must match this rule
	Names    []string   `json:"names,omitempty"`
	SHA256   []string   `json:"sha256,omitempty"`
	// Detail lists, for a key that must be there, the values allowed. A value that is a list itself, such as the keys
	// that signed an image, matches if one of its elements does.
	Detail map[string][]string `json:"detail,omitempty"`
}

// authorityOrder are the types of PCR 13 in the order in which the loader measures them.
func authorityOrder() []event.Type {
	return []event.Type{
		event.TypeHostConfig, event.TypeSiteConfig, event.TypeProvenance, event.TypeReleaseKey, event.TypeClock, event.TypeFloor,
	}
}

// mayRepeat tells whether a record of this type may stand in PCR 13 more than once.
func mayRepeat(t event.Type) bool { return t == event.TypeHostConfig || t == event.TypeProvenance }

// DefaultRules accept any provenance, clock and floor: images and loaders are pinned by their own references, and the
// loader has enforced its site config. A site that wants more lists names, digests and details.
func DefaultRules(name string, roots ...RootOfTrust) *Rules {
	return &Rules{
		Header: Header{Version, KindRules, name}, RootsOfTrust: roots,
		Authority: []RecordRule{
			{Type: event.TypeHostConfig},
			{Type: event.TypeSiteConfig, Required: true},
			{Type: event.TypeProvenance, Required: true},
			{Type: event.TypeReleaseKey, Required: true},
			{Type: event.TypeClock, Required: true},
			{Type: event.TypeFloor},
		},
	}
}

func (r *Rules) check() error {
	if err := r.Header.check(KindRules); err != nil {
		return err
	}
	if len(r.RootsOfTrust) == 0 {
		return errors.New("rootsOfTrust is empty: no device would be accepted")
	}
	for _, b := range r.Banks {
		if b != "sha256" && b != "sha384" {
			return fmt.Errorf("banks: %q, want sha256 or sha384", b)
		}
	}
	for _, rule := range r.Authority {
		if rankOf(rule.Type) < 0 {
			return fmt.Errorf("authority: the loader measures no %q into PCR 13", rule.Type)
		}
	}
	return nil
}

// acceptsBank tells whether evidence may be in a bank.
func (r *Rules) acceptsBank(name string) bool {
	if len(r.Banks) == 0 {
		return name == "sha256"
	}
	return slices.Contains(r.Banks, name)
}

// rankOf is the place of a type in PCR 13, or -1.
func rankOf(t event.Type) int { return slices.Index(authorityOrder(), t) }

// matches tells whether a record is one that the rule allows.
func (r *RecordRule) matches(rec event.Record) bool {
	if rec.Type != r.Type || !allows(r.Names, rec.Name) || !allows(r.SHA256, rec.SHA256) {
		return false
	}
	for key, values := range r.Detail {
		value, ok := rec.Detail[key]
		if !ok || !slices.ContainsFunc(strings.Split(value, ","), func(v string) bool { return allows(values, v) }) {
			return false
		}
	}
	return true
}

func allows(list []string, value string) bool { return len(list) == 0 || slices.Contains(list, value) }

// describe says what the rule expects, for a denial.
func (r *RecordRule) describe() string {
	parts := []string{string(r.Type)}
	if len(r.Names) > 0 {
		parts = append(parts, "name "+strings.Join(r.Names, "|"))
	}
	if len(r.SHA256) > 0 {
		parts = append(parts, "sha256 "+strings.Join(r.SHA256, "|"))
	}
	for key, values := range r.Detail {
		parts = append(parts, key+" "+strings.Join(values, "|"))
	}
	return strings.Join(parts, ", ")
}

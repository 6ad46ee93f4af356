package policy

import (
	"bytes"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"errors"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-tpm/tpm2"
)

// TestChecks changes one thing in a good document and wants to be told which.
func TestChecks(t *testing.T) {
	rule := func(p *Profile, index int) *PCRRule {
		i := slices.IndexFunc(p.Rules, func(r PCRRule) bool { return r.PCR == index })
		if i < 0 {
			t.Fatalf("the profile has no rule for PCR %d", index)
		}
		return &p.Rules[i]
	}
	loader := ProfileEvent{Event: "the loader", Loader: true}
	profile := func(change func(*Profile)) Document {
		_, set := good(t)
		change(set.Profiles[0])
		return set.Profiles[0]
	}
	for want, d := range map[string]Document{
		"no rule for PCR 2": profile(func(p *Profile) {
			p.Rules = slices.DeleteFunc(p.Rules, func(r PCRRule) bool { return r.PCR == 2 })
		}),
		"it cannot be ignored":             profile(func(p *Profile) { *rule(p, 0) = PCRRule{PCR: 0, Match: MatchAny, Reason: "tired"} }),
		"match any needs a reason":         profile(func(p *Profile) { rule(p, 1).Reason = "" }),
		"a reason and no events":           profile(func(p *Profile) { rule(p, 1).Events = rule(p, 0).Events }),
		"boot variables":                   profile(func(p *Profile) { rule(p, 1).Match = MatchSet }),
		`match is "most"`:                  profile(func(p *Profile) { rule(p, 0).Match = "most" }),
		"no events; leave the rule out":    profile(func(p *Profile) { rule(p, 0).Events = nil }),
		"an event without digests":         profile(func(p *Profile) { rule(p, 0).Events[0].Digests = nil }),
		"in its own reference":             profile(func(p *Profile) { rule(p, 0).Events[0].Loader = true }),
		"rule for PCR 0: the loader":       profile(func(p *Profile) { rule(p, 0).Events[0] = loader }),
		"the loader stands in PCR 4, once": profile(func(p *Profile) { rule(p, 4).Events = append(rule(p, 4).Events, loader) }),
		"rule for PCR 4: the loader": profile(func(p *Profile) {
			rule(p, 4).Events = slices.DeleteFunc(rule(p, 4).Events, func(e ProfileEvent) bool { return e.Loader })
		}),
		"PCR 0 to 7":        profile(func(p *Profile) { rule(p, 3).PCR = 8 }),
		"two rules for PCR": profile(func(p *Profile) { rule(p, 3).PCR = 2 }),
		"a loader that is not measured": func() Document {
			l := loaderOf(firmwareLog(t))
			l.PCR4 = nil
			return l
		}(),
		"no digest for any bank": func() Document {
			l := loaderOf(firmwareLog(t))
			l.PCR11 = append(l.PCR11, Digests{})
			return l
		}(),
		"attested: no bank": func() Document {
			i := newImage(t, "os", "kernel", 1)
			i.Attested, i.Capped = nil, nil
			return i
		}(),
		"rootsOfTrust is empty": DefaultRules("rules"),
	} {
		if _, err := Marshal(d); !errors.Is(err, ErrFormat) || !strings.Contains(err.Error(), want) {
			t.Errorf("Marshal() = %v, want %v with %q", err, ErrFormat, want)
		}
	}
}

func TestDocumentsAreBounded(t *testing.T) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	_, set := good(t)
	raw, err := Marshal(set.Rules)
	if err != nil {
		t.Fatal(err)
	}
	signed, err := Sign(key, raw)
	if err != nil {
		t.Fatal(err)
	}
	padding := bytes.Repeat([]byte(" "), MaxSize)
	if _, err := Parse(append(raw, padding...)); !errors.Is(err, ErrFormat) {
		t.Errorf("Parse of a padded document: %v, want %v", err, ErrFormat)
	}
	if _, err := Open(&key.PublicKey, append(slices.Clone(signed), padding...)); !errors.Is(err, ErrFormat) {
		t.Errorf("Open of a padded document: %v, want %v", err, ErrFormat)
	}
	p384, err := ecdsa.GenerateKey(elliptic.P384(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := Sign(p384, raw); !errors.Is(err, ErrSignature) {
		t.Errorf("Sign with a P-384 key: %v, want %v", err, ErrSignature)
	}
	for _, k := range []*ecdsa.PublicKey{nil, &p384.PublicKey} {
		if _, err := Open(k, signed); !errors.Is(err, ErrSignature) {
			t.Errorf("Open with key %v: %v, want %v", k, err, ErrSignature)
		}
	}
}

func TestRecordProfileNeedsACommonBank(t *testing.T) {
	log := firmwareLog(t)
	dummy := loaderOf(log)
	log.Banks = []tpm2.TPMAlgID{tpm2.TPMAlgSHA512}
	if _, err := RecordProfile("ovmf", RootVirtual, log, dummy); err == nil || !strings.Contains(err.Error(), "no bank in common") {
		t.Errorf("found %v, want that there is no bank in common", err)
	}
}

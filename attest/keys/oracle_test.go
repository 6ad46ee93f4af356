package keys

import (
	"bytes"
	"crypto"
	"crypto/rand"
	"crypto/rsa"
	"crypto/sha256"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-tpm/tpm2"
)

// TestMatchersAgreeWithParser: what is recognised by its bytes is what go-tpm reads, and Match finds what Matches does.
func TestMatchersAgreeWithParser(t *testing.T) {
	release := &newKey(t).PublicKey
	m, err := NewMatchers(release)
	if err != nil {
		t.Fatal(err)
	}
	key, err := rsa.GenerateKey(rand.Reader, 2048)
	if err != nil {
		t.Fatal(err)
	}
	for i, matcher := range append(append(m.EK, m.AK...), m.Agent...) {
		public := matcher.template
		switch {
		case matcher.curve == nil:
			public.Unique = tpm2.NewTPMUPublicID(tpm2.TPMAlgRSA, &tpm2.TPM2BPublicKeyRSA{Buffer: key.N.Bytes()})
		case matcher.curve.Params().BitSize == 256:
			public = *withPoint(t, public)
		default:
			continue // P-384 is proven with TPMs
		}
		raw := tpm2.Marshal(public)
		want, wantKey, err := ParsePublic(raw)
		if err != nil {
			t.Fatal(err)
		}
		name, err := Name(want)
		if err != nil {
			t.Fatal(err)
		}
		got, err := matcher.Match(raw)
		if err != nil || got == nil {
			t.Fatalf("template %d: %v, %v", i, got, err)
		}
		if !bytes.Equal(tpm2.Marshal(got.Area), raw) || !bytes.Equal(got.Name, name) || !wantKey.(interface{ Equal(crypto.PublicKey) bool }).Equal(got.Key) {
			t.Errorf("template %d: read as another key", i)
		}
		for offset := range raw[:len(raw)-64] {
			changed := bytes.Clone(raw)
			changed[offset] ^= 1
			other, _, err := ParsePublic(changed)
			match := err == nil && Matches(other, &matcher.template)
			if p, err := matcher.Match(changed); (p != nil && err == nil) != match {
				t.Errorf("template %d, byte %d changed: Match() = %v, %v; Matches() = %v", i, offset, p, err, match)
			}
		}
		for _, bad := range [][]byte{raw[:len(raw)-1], append(bytes.Clone(raw), 0), raw[:20], nil} {
			if p, err := matcher.Match(bad); p != nil && err == nil {
				t.Errorf("template %d: %d bytes of %d accepted", i, len(bad), len(raw))
			}
		}
	}
}

// TestPoliciesAgreeWithCalculator compares our policy digests, cpHash and selection with go-tpm's.
func TestPoliciesAgreeWithCalculator(t *testing.T) {
	p := PCRs{Bank: tpm2.TPMAlgSHA384, Index: []int{0, 7, 12, 13, 23}, Values: [][]byte{{1}, {2}, {3}, {4}, {5}}}
	if diff := cmp.Diff(tpm2.Marshal(p.Selection()), p.SelectionBytes()); diff != "" {
		t.Errorf("selection (-want +got):\n%s", diff)
	}
	pcrs := tpm2.PolicyPCR{PcrDigest: tpm2.TPM2BDigest{Buffer: p.Digest()}, Pcrs: p.Selection()}
	agent, err := digest(pcrs)
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(agent, AgentPolicy(p)); diff != "" {
		t.Errorf("agent policy (-want +got):\n%s", diff)
	}
	c := &Credential{AKName: []byte("ak name"), EKName: []byte("ek name"), Blob: make([]byte, 66), Secret: make([]byte, 256)}
	cpHash, err := tpm2.CPHash[tpm2.ActivateCredentialResponse](tpm2.TPMAlgSHA256, c.Command())
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(cpHash.Buffer, c.CPHash()); diff != "" {
		t.Errorf("cpHash (-want +got):\n%s", diff)
	}
	release, err := digest(pcrs, tpm2.PolicyCPHash{CPHashA: *cpHash}, counterTimer{0, 0, 0, 77, 0, 0, 0, 5, 0, 16, 0, 0})
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(release, ReleasePolicy(p, c, tpm2.TPMSClockInfo{Clock: 99, ResetCount: 77, RestartCount: 5, Safe: true})); diff != "" {
		t.Errorf("release policy (-want +got):\n%s", diff)
	}
}

// counterTimer is TPM2_PolicyCounterTimer: operand, offset and operation, one behind the other.
type counterTimer []byte

func (c counterTimer) Update(policy *tpm2.PolicyCalculator) error {
	sum := sha256.Sum256(c)
	return policy.Update(tpm2.TPMCCPolicyCounterTimer, sum[:])
}

package keys

import (
	"bytes"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"encoding/hex"
	"math/big"
	"testing"

	"github.com/google/go-tpm/tpm2"
)

func newKey(t testing.TB) *ecdsa.PrivateKey {
	t.Helper()
	k, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	return k
}

// withPoint puts a real point into a template.
func withPoint(t testing.TB, template tpm2.TPMTPublic) *tpm2.TPMTPublic {
	t.Helper()
	point, err := newKey(t).PublicKey.Bytes()
	if err != nil {
		t.Fatal(err)
	}
	template.Unique = tpm2.NewTPMUPublicID(tpm2.TPMAlgECC, &tpm2.TPMSECCPoint{
		X: tpm2.TPM2BECCParameter{Buffer: point[1:33]}, Y: tpm2.TPM2BECCParameter{Buffer: point[33:]}})
	return &template
}

// TestTemplatesAreExact flips every bit of every template's attributes, and changes its policy: no template then
// accepts it.
func TestTemplatesAreExact(t *testing.T) {
	release := newKey(t)
	aks, err := AKs(&release.PublicKey)
	if err != nil {
		t.Fatal(err)
	}
	agent, err := AgentKey(&release.PublicKey)
	if err != nil {
		t.Fatal(err)
	}
	all := append(aks, *agent)
	for _, ek := range EKs() {
		all = append(all, ek.Template)
	}
	for i := range all {
		if !Matches(&all[i], &all[i]) {
			t.Fatalf("template %d does not match itself", i)
		}
		raw := frame(&all[i])
		for bit := range 32 {
			changed := bytes.Clone(raw)
			changed[4+bit/8] ^= 1 << (bit % 8)
			refused(t, changed, all)
		}
		for offset := 8; offset < len(raw)-4; offset++ {
			changed := bytes.Clone(raw)
			changed[offset] ^= 1
			refused(t, changed, all)
		}
	}
}

func refused(t *testing.T, raw []byte, templates []tpm2.TPMTPublic) {
	t.Helper()
	public, err := tpm2.Unmarshal[tpm2.TPMTPublic](raw)
	if err != nil || !bytes.Equal(tpm2.Marshal(*public), raw) {
		return // ParsePublic refuses it
	}
	for i := range templates {
		if Matches(public, &templates[i]) {
			t.Errorf("%x matches template %d", raw, i)
		}
	}
}

// TestHighRangePolicy computes PolicyB from its parts, of which the TCG's document gives PolicyC as a digest only.
func TestHighRangePolicy(t *testing.T) {
	for _, c := range []struct {
		alg    tpm2.TPMAlgID
		policy string
		c      string
	}{
		{tpm2.TPMAlgSHA256, policyBSHA256, "3767e2edd43ff45a3a7e1eaefcef78643dca964632e7aad82c673a30d8633fde"},
		{tpm2.TPMAlgSHA384, policyBSHA384, "d6032ce61f2fb3c240eb3cf6a33237ef2b6a16f4293c22b455e261cffd217ad5b4947c2d73e63005eed2dc2b3593d165"},
	} {
		calc, err := tpm2.NewPolicyCalculator(c.alg)
		if err != nil {
			t.Fatal(err)
		}
		if err := (tpm2.PolicySecret{AuthHandle: tpm2.TPMRHEndorsement}).Update(calc); err != nil {
			t.Fatal(err)
		}
		policyC, err := hex.DecodeString(c.c)
		if err != nil {
			t.Fatal(err)
		}
		or := tpm2.PolicyOr{PHashList: tpm2.TPMLDigest{Digests: []tpm2.TPM2BDigest{{Buffer: calc.Hash().Digest}, {Buffer: policyC}}}}
		if err := or.Update(calc); err != nil {
			t.Fatal(err)
		}
		if got := hex.EncodeToString(calc.Hash().Digest); got != c.policy {
			t.Errorf("PolicyB for %v is %s, not %s", c.alg, got, c.policy)
		}
	}
}

func TestParsePublic(t *testing.T) {
	agent, err := AgentKey(&newKey(t).PublicKey)
	if err != nil {
		t.Fatal(err)
	}
	good := tpm2.Marshal(*withPoint(t, *agent))
	if _, _, err := ParsePublic(good); err != nil {
		t.Fatal(err)
	}
	offCurve := bytes.Clone(good)
	offCurve[len(offCurve)-1] ^= 1
	rsa := func(n *big.Int, bits uint16, e uint32) []byte {
		p := rsaHigh()
		p.Parameters = tpm2.NewTPMUPublicParms(tpm2.TPMAlgRSA, &tpm2.TPMSRSAParms{Symmetric: aesCFB(128), KeyBits: tpm2.TPMKeyBits(bits), Exponent: e})
		p.Unique = tpm2.NewTPMUPublicID(tpm2.TPMAlgRSA, &tpm2.TPM2BPublicKeyRSA{Buffer: n.Bytes()})
		return tpm2.Marshal(p)
	}
	odd := func(bits uint) *big.Int { n := new(big.Int).Lsh(big.NewInt(1), bits-1); return n.Add(n, big.NewInt(3)) }
	if _, _, err := ParsePublic(rsa(odd(2048), 2048, 0)); err != nil {
		t.Error(err)
	}
	// The same point, with a zero in front of a coordinate.
	long := *withPoint(t, *agent)
	point, err := long.Unique.ECC()
	if err != nil {
		t.Fatal(err)
	}
	long.Unique = tpm2.NewTPMUPublicID(tpm2.TPMAlgECC, &tpm2.TPMSECCPoint{
		X: tpm2.TPM2BECCParameter{Buffer: append([]byte{0}, point.X.Buffer...)}, Y: point.Y})
	for name, raw := range map[string][]byte{
		"long point":   tpm2.Marshal(long),
		"P-521":        p521(t, *agent),
		"no key pair":  tpm2.Marshal(tpm2.TPMTPublic{Type: tpm2.TPMAlgKeyedHash, NameAlg: tpm2.TPMAlgSHA256}),
		"empty":        nil,
		"trailing":     append(bytes.Clone(good), 0),
		"cut":          good[:len(good)-1],
		"off curve":    offCurve,
		"RSA-1024":     rsa(odd(1024), 1024, 0),
		"exponent 3":   rsa(odd(2048), 2048, 3),
		"even modulus": rsa(new(big.Int).Lsh(big.NewInt(1), 2047), 2048, 0),
		"ROCA":         rsa(rocaLike(), 2048, 0),
	} {
		if _, _, err := ParsePublic(raw); err == nil {
			t.Errorf("%s: accepted", name)
		}
	}
}

// p521 is a public area on a curve that no template has.
func p521(t *testing.T, template tpm2.TPMTPublic) []byte {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P521(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	point, err := key.PublicKey.Bytes()
	if err != nil {
		t.Fatal(err)
	}
	parms, err := template.Parameters.ECCDetail()
	if err != nil {
		t.Fatal(err)
	}
	other := *parms
	other.CurveID = tpm2.TPMECCNistP521
	template.Parameters = tpm2.NewTPMUPublicParms(tpm2.TPMAlgECC, &other)
	template.Unique = tpm2.NewTPMUPublicID(tpm2.TPMAlgECC, &tpm2.TPMSECCPoint{
		X: tpm2.TPM2BECCParameter{Buffer: point[1:67]}, Y: tpm2.TPM2BECCParameter{Buffer: point[67:]}})
	return tpm2.Marshal(template)
}

func TestReleaseKeyIsP256(t *testing.T) {
	key, err := ecdsa.GenerateKey(elliptic.P384(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := ReleaseKey(&key.PublicKey); err == nil {
		t.Error("a P-384 release key was taken")
	}
	if _, err := Approve(key, []byte("policy"), RefRelease); err == nil {
		t.Error("a P-384 key approved")
	}
}

// rocaLike is a number of 2048 bits that is 1 modulo each of the fingerprint's primes, as a power of 65537 can be.
func rocaLike() *big.Int {
	m := big.NewInt(2)
	for _, p := range []int64{11, 13, 17, 19, 37, 53, 61, 71, 73, 79, 97, 103, 107, 109, 127, 151, 157} {
		m.Mul(m, big.NewInt(p))
	}
	n := new(big.Int).Lsh(big.NewInt(3), 2046)
	n.Sub(n, new(big.Int).Mod(n, m))
	return n.Add(n, big.NewInt(1))
}

func FuzzParsePublic(f *testing.F) {
	agent, err := AgentKey(&newKey(f).PublicKey)
	if err != nil {
		f.Fatal(err)
	}
	f.Add(tpm2.Marshal(*withPoint(f, *agent)))
	f.Add(tpm2.Marshal(rsaHigh()))
	matchers, err := NewMatchers(&newKey(f).PublicKey)
	if err != nil {
		f.Fatal(err)
	}
	f.Fuzz(func(t *testing.T, raw []byte) {
		public, _, err := ParsePublic(raw)
		if err != nil {
			for _, m := range matchers.EK {
				if p, err := m.Match(raw); p != nil && err == nil {
					t.Error("a template matches what is not acceptable")
				}
			}
			return
		}
		if !bytes.Equal(tpm2.Marshal(*public), raw) {
			t.Error("accepted another encoding")
		}
		if _, err := MakeCredential(&Public{Area: *public}, make([]byte, 34), make([]byte, 32)); err != nil {
			return // not a key that can be encrypted to
		}
	})
}

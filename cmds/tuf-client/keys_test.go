package main

import (
	"bytes"
	"crypto"
	"encoding/hex"
	"fmt"
	"testing"

	"github.com/theupdateframework/go-tuf/v2/metadata"

	"github.com/sealboot/sealboot/boot/boottest/tuftest"
	"github.com/sealboot/sealboot/boot/publish/sign"
)

func Test_snapshot_does_not_meet_threshold(t *testing.T) {
	c := newRunner(t)
	c.start()
	c.repo.Root.Signed.Roles["snapshot"].Threshold = 3
	for range 3 {
		c.repo.AddKey("snapshot", tuftest.NewKey(t))
	}
	c.repo.Publish("root", "snapshot", "timestamp")
	c.want(c.refresh(), 0)
	c.wantVersion("snapshot", 2)
	c.wantVersion("root", 2)
	// Four keys, a threshold of four, three signatures.
	c.repo.Root.Signed.Roles["snapshot"].Threshold = 4
	c.repo.Signers["snapshot"] = c.repo.Signers["snapshot"][:3]
	c.repo.Publish("root", "snapshot", "timestamp")
	c.want(c.refresh(), 1)
	c.wantVersion("root", 3)
	c.wantVersion("snapshot", 2)
}

func Test_snapshot_threshold(t *testing.T) {
	c := newRunner(t)
	c.start()
	for range 4 {
		c.repo.AddKey("snapshot", tuftest.NewKey(t))
	}
	c.repo.Root.Signed.Roles["snapshot"].Threshold = 6
	c.repo.Publish("root", "snapshot", "timestamp")
	c.want(c.refresh(), 1)
	c.wantVersion("snapshot", 1)
}

func Test_duplicate_keys_root(t *testing.T) {
	c := newRunner(t)
	c.want(c.initClient(), 0)
	key := tuftest.NewKey(t)
	for range 9 {
		c.repo.AddKey("snapshot", key)
	}
	c.repo.Signers["snapshot"] = c.repo.Signers["snapshot"][:2]
	c.repo.Root.Signed.Roles["snapshot"].Threshold = 6
	c.repo.Publish("root", "snapshot", "timestamp")
	c.want(c.refresh(), 1)
	c.wantVersion("snapshot", 0)
}

// Test_duplicate_keys is the same with as many signatures of the one key.
func Test_duplicate_keys(t *testing.T) {
	c := newRunner(t)
	c.want(c.initClient(), 0)
	key := tuftest.NewKey(t)
	for range 9 {
		c.repo.AddKey("snapshot", key)
	}
	c.repo.Root.Signed.Roles["snapshot"].Threshold = 6
	c.repo.Publish("root", "snapshot", "timestamp")
	c.repo.Published["snapshot"][1] = editJSON(t, c.repo.Last("snapshot"), func(md map[string]any) {
		sigs := md["signatures"].([]any)
		for range 8 {
			sigs = append(sigs, sigs[len(sigs)-1])
		}
		md["signatures"] = sigs
	})
	c.want(c.refresh(), 1)
	c.wantVersion("snapshot", 0)
}

func Test_invalid_sig_in_valid_metadata(t *testing.T) {
	c := newRunner(t)
	c.want(c.initClient(), 0)
	old := c.repo.Timestamp.Signatures[0]
	c.repo.AddKey("timestamp", tuftest.NewKey(t)) // one of two is enough
	c.repo.Publish("root", "timestamp")
	for _, sig := range []any{old.Signature, ""} { // plausible; none at all, as tuf-on-ci has it
		c.repo.Published["timestamp"][len(c.repo.Published["timestamp"])-1] = editJSON(t, c.repo.Last("timestamp"), func(md map[string]any) {
			md["signatures"].([]any)[0].(map[string]any)["sig"] = sig
		})
		c.want(c.refresh(), 0)
		c.wantMetadata("timestamp", c.repo.Last("timestamp"))
		c.repo.Publish("timestamp")
	}
}

func Test_one_key_under_many_ids(t *testing.T) {
	c := newRunner(t)
	c.want(c.initClient(), 0)
	key := tuftest.NewKey(t)
	pub, _, err := sign.PublicKey(key.Public())
	if err != nil {
		t.Fatal(err)
	}
	for i := range 5 {
		c.repo.AddKeyAs("snapshot", fmt.Sprintf("%064x", i), pub, key)
	}
	c.repo.Root.Signed.Roles["snapshot"].Threshold = 3
	c.repo.Publish("root", "snapshot", "timestamp")
	c.want(c.refresh(), 1)
	c.wantVersion("snapshot", 0)
}

func Test_keyids_are_opaque(t *testing.T) {
	c := newRunner(t)
	c.want(c.initClient(), 0)
	key := tuftest.NewKey(t)
	pub, _, err := sign.PublicKey(key.Public())
	if err != nil {
		t.Fatal(err)
	}
	c.repo.ClearKeys("snapshot")
	c.repo.AddKeyAs("snapshot", "not-a-digest", pub, key)
	c.repo.Publish("root", "snapshot", "timestamp")
	c.want(c.refresh(), 0)
}

var keyTypes = []struct{ keytype, scheme, badSig string }{
	{"rsa", "rsassa-pss-sha256", "b123346abdead7069ab07eb3cae8ba6323222fb448b4903061f481066b0393dde6268eba7696b73b20586fc2cb3e3f68317863a8a9ee85824cfffdc70762821f"},
	{"ecdsa", "ecdsa-sha2-nistp256", "3046022100fa1f62d38e0f5c565fa23e5d230086258427d87f024c146071966deefde55468022100b3347b4bd9ba6701ca6cef949d04b5742394b9f8c4417933e5d4fa76c3ca3a98"},
	{"ecdsa", "ecdsa-sha2-nistp384", "3046022100fa1f62d38e0f5c565fa23e5d230086258427d87f024c146071966deefde55468022100b3347b4bd9ba6701ca6cef949d04b5742394b9f8c4417933e5d4fa76c3ca3a98"},
	{"ed25519", "ed25519", "b61589620c287e23a00abf0e653421010a0ad33869e5a096d604e08d7b4f8eb9c58ebb8a02124576be776f86ab5a3b05dbb6f27cc47f4b144f32ba4012d4b302"},
}

func Test_keytype_and_scheme(t *testing.T) {
	for _, k := range keyTypes {
		t.Run(k.keytype+"/"+k.scheme, func(t *testing.T) {
			c := newRunner(t)
			c.want(c.initClient(), 0)
			key := tuftest.NewKeyOf(t, k.keytype, k.scheme)
			_, id, err := sign.PublicKey(key.Public())
			if err != nil {
				t.Fatal(err)
			}
			c.repo.AddKey("root", key)
			c.repo.Root.Signed.Roles["root"].Threshold = 2
			c.repo.Publish("root")
			c.want(c.refresh(), 0)
			c.wantVersion("root", 2)

			c.repo.Publish("root")
			bad, _ := hex.DecodeString(k.badSig)
			md := c.repo.Root
			for i := range md.Signatures {
				if md.Signatures[i].KeyID == id {
					md.Signatures[i].Signature = bad
				}
			}
			if c.repo.Published["root"][2], err = md.ToBytes(false); err != nil {
				t.Fatal(err)
			}
			c.want(c.refresh(), 1)
			c.wantVersion("root", 2)
		})
	}
}

// mdVersion is one version of a role: its keys, threshold and signers, by
// number, and whether a client accepts it.
type mdVersion struct {
	keys      []int
	threshold int
	sigs      []int
	refused   bool
}

var five, fiveRotated = []int{0, 1, 2, 3, 4}, []int{0, 1, 3, 4, 5}

var rootRotations = map[string][]mdVersion{
	"1-of-1-key-rotation":                            {{[]int{1}, 1, []int{1}, false}, {[]int{2}, 1, []int{2, 1}, false}, {[]int{2}, 1, []int{2}, false}},
	"1-of-1-key-rotation-unused-signatures":          {{[]int{1}, 1, []int{3, 1, 4}, false}, {[]int{2}, 1, []int{3, 2, 1, 4}, false}, {[]int{2}, 1, []int{3, 2, 4}, false}},
	"3-of-5-sign-with-different-keycombos":           {{five, 3, []int{0, 2, 4}, false}, {five, 3, []int{0, 4, 1}, false}, {five, 3, []int{0, 1, 3}, false}, {five, 3, []int{0, 1, 3}, false}},
	"3-of-5-one-key-rotated":                         {{five, 3, []int{0, 2, 4}, false}, {fiveRotated, 3, []int{0, 4, 1}, false}},
	"3-of-5-one-key-rotated-with-intermediate-step":  {{five, 3, []int{0, 2, 4}, false}, {fiveRotated, 3, []int{0, 2, 4, 5}, false}, {fiveRotated, 3, []int{0, 4, 5}, false}},
	"3-of-5-all-keys-rotated-with-intermediate-step": {{five, 3, []int{0, 2, 4}, false}, {[]int{5, 6, 7, 8, 9}, 3, []int{0, 2, 4, 5, 6, 7}, false}, {[]int{5, 6, 7, 8, 9}, 3, []int{5, 6, 7}, false}},
	"1-of-3-threshold-increase-to-2-of-3":            {{[]int{1, 2, 3}, 1, []int{1}, false}, {[]int{1, 2, 3}, 2, []int{1, 2}, false}},
	"2-of-3-threshold-decrease-to-1-of-3":            {{[]int{1, 2, 3}, 2, []int{1, 2}, false}, {[]int{1, 2, 3}, 1, []int{1, 2}, false}, {[]int{1, 2, 3}, 1, []int{1}, false}},
	"1-of-2-threshold-increase-to-2-of-2":            {{[]int{1}, 1, []int{1}, false}, {[]int{1, 2}, 2, []int{1, 2}, false}},

	"1-of-1-key-rotation-fail-not-signed-with-old-key":                {{[]int{1}, 1, []int{1}, false}, {[]int{2}, 1, []int{2, 3, 4}, true}},
	"1-of-1-key-rotation-fail-not-signed-with-new-key":                {{[]int{1}, 1, []int{1}, false}, {[]int{2}, 1, []int{1, 3, 4}, true}},
	"3-of-5-one-key-rotate-fails-not-signed-with-3-new-keys":          {{five, 3, []int{0, 2, 4}, false}, {fiveRotated, 3, []int{0, 2, 4}, true}},
	"3-of-5-one-key-rotate-fails-not-signed-with-3-old-keys":          {{five, 3, []int{0, 2, 4}, false}, {fiveRotated, 3, []int{0, 4, 5}, true}},
	"1-of-3-threshold-bump-to-2-of-3-fails-new-threshold-not-reached": {{[]int{1, 2, 3}, 1, []int{1}, false}, {[]int{1, 2, 3}, 2, []int{2}, true}},
	"2-of-3-threshold-decr-to-1-of-3-fails-old-threshold-not-reached": {{[]int{1, 2, 3}, 2, []int{1, 2}, false}, {[]int{1, 2, 3}, 1, []int{1}, true}},
}

func Test_root_rotation(t *testing.T) {
	for name, versions := range rootRotations {
		t.Run(name, func(t *testing.T) {
			c := newRunner(t)
			c.repo.Published["root"] = nil
			keys := manyKeys(t)
			for _, v := range versions {
				v.apply(c.repo, "root", keys)
				c.repo.Publish("root")
			}
			c.root = c.repo.Published["root"][0]
			c.want(c.initClient(), 0)
			last := len(versions) - 1
			if versions[last].refused {
				c.want(c.refresh(), 1)
				c.wantMetadata("root", c.repo.Published["root"][last-1])
				return
			}
			c.want(c.refresh(), 0)
			c.wantMetadata("root", c.repo.Last("root"))
		})
	}
}

var nonRootRotations = map[string]mdVersion{
	"1-of-1-key-rotation":                                            {[]int{2}, 1, []int{2}, false},
	"1-of-1-key-rotation-unused-signatures":                          {[]int{1}, 1, []int{3, 1, 4}, false},
	"1-of-1-key-rotation-fail-not-signed-with-new-key":               {[]int{2}, 1, []int{1, 3, 4}, true},
	"3-of-5-one-key-signature-wrong-not-signed-with-3-expected-keys": {fiveRotated, 3, []int{0, 2, 4}, true},
	"2-of-5-one-key-signature-missing-threshold-not-reached":         {fiveRotated, 3, []int{0, 4}, true},
	"3-of-5-sign-first-combo":                                        {five, 3, []int{0, 2, 4}, false},
	"3-of-5-sign-second-combo":                                       {five, 3, []int{0, 4, 1}, false},
	"3-of-5-sign-third-combo":                                        {five, 3, []int{0, 1, 3}, false},
	"3-of-5-sign-fourth-combo":                                       {five, 3, []int{1, 2, 3}, false},
	"3-of-5-sign-fifth-combo":                                        {five, 3, []int{2, 3, 4}, false},
}

func Test_non_root_rotations(t *testing.T) {
	for name, v := range nonRootRotations {
		t.Run(name, func(t *testing.T) {
			c := newRunner(t)
			c.want(c.initClient(), 0)
			keys := manyKeys(t)
			for _, role := range topLevel[1:] {
				v.apply(c.repo, role, keys)
				c.repo.Publish("root", "targets", "snapshot", "timestamp")
				if v.refused {
					c.want(c.refresh(), 1)
					continue
				}
				c.want(c.refresh(), 0)
				c.wantMetadata(role, c.repo.Last(role))
			}
		})
	}
}

func manyKeys(t *testing.T) []crypto.Signer {
	keys := make([]crypto.Signer, 10)
	for i := range keys {
		keys[i] = tuftest.NewKeyOf(t, "ed25519", "ed25519")
	}
	return keys
}

func (v mdVersion) apply(repo *tuftest.Repo, role string, keys []crypto.Signer) {
	repo.ClearKeys(role)
	repo.Root.Signed.Roles[role].Threshold = v.threshold
	for _, i := range v.keys {
		repo.AddKey(role, keys[i])
	}
	repo.Signers[role] = nil
	for _, i := range v.sigs {
		_, id, err := sign.PublicKey(keys[i].Public())
		if err != nil {
			panic(err) // Ed25519 keys are fine
		}
		repo.AddSigner(role, id, keys[i])
	}
}

func Test_repeated_signature_is_refused(t *testing.T) {
	c := newRunner(t)
	c.want(c.initClient(), 0)
	c.repo.Publish("root")
	md := c.repo.Root
	md.Signatures = append(md.Signatures, metadata.Signature(md.Signatures[0]))
	data, err := md.ToBytes(false)
	if err != nil || bytes.Equal(data, c.repo.Last("root")) {
		t.Fatal("the root was not changed", err)
	}
	c.repo.Published["root"][1] = data
	c.want(c.refresh(), 1)
	c.wantVersion("root", 1)
}

func Test_duplicate_sig_keyids(t *testing.T) {
	c := newRunner(t)
	c.want(c.initClient(), 0)
	c.repo.Published["snapshot"][0] = editJSON(t, c.repo.Last("snapshot"), func(md map[string]any) {
		sigs := md["signatures"].([]any)
		md["signatures"] = append(sigs, sigs[0])
	})
	c.want(c.refresh(), 1)
	c.wantVersion("snapshot", 0)
}

package verify_test

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"fmt"
	"log"
	"os"
	"strings"
	"time"

	"github.com/sealboot/sealboot/attest/verify"
	"github.com/sealboot/sealboot/attest/verify/verifytest"
	"github.com/sealboot/sealboot/attest/wire"
	"github.com/sealboot/sealboot/measure/event"
)

// A server answers M1 with a challenge and M3 with a verdict, and keeps nothing in between.
// What it knows of the device, it loads between the two halves of the judgement.
func Example() {
	serverKey, releaseKey := exampleKey(), exampleKey()
	site := &verify.Site{Name: "shop-1", ReleaseKey: &releaseKey.PublicKey}
	device := exampleDevice(&releaseKey.PublicKey) // a real one is elsewhere
	now := time.Now()

	m1, err := device.Request("shop-1")
	if err != nil {
		log.Fatal(err)
	}
	m2, _, err := site.Challenge(now, m1, serverKey)
	if err != nil {
		log.Fatal(err)
	}
	m3, err := device.Evidence(m1, m2)
	if err != nil {
		log.Fatal(err)
	}

	verdict := site.Verify(now, m3)
	fmt.Println("verified, and not allowed yet:", verdict.Verified != nil, verdict.Allowed())
	verdict.Appraise(func(v *verify.Verified) []wire.Reason {
		if len(v.Loader) == 0 {
			return []wire.Reason{{Code: wire.CodeImage, Detail: "nothing was measured"}}
		}
		return nil // in place of policy.Set.Appraise
	})
	fmt.Println("allowed:", verdict.Allowed())

	m3[len(m3)/2] ^= 1
	fmt.Println("one bit changed:", site.Verify(now, m3).Allowed())
	// Output:
	// verified, and not allowed yet: true false
	// allowed: true
	// one bit changed: false
}

func exampleKey() *ecdsa.PrivateKey {
	k, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		log.Fatal(err)
	}
	return k
}

func exampleDevice(release *ecdsa.PublicKey) *verifytest.Device {
	firmware, err := os.ReadFile("../../measure/fwlog/testdata/ovmf-uki.bin")
	if err != nil {
		log.Fatal(err)
	}
	digest := strings.Repeat("5a", 32)
	image, err := event.Descriptor{Kind: event.KindLinux, Artifacts: []event.Artifact{
		{Role: event.RoleKernel, SHA256: digest, Size: 1}, {Role: event.RoleCmdline, SHA256: digest, Size: 1},
	}}.Records()
	if err != nil {
		log.Fatal(err)
	}
	d, err := verifytest.New(release, firmware, image, []event.Record{{Type: event.TypeSiteConfig, SHA256: digest}, {Type: event.TypeClock, Name: "attestd"}})
	if err != nil {
		log.Fatal(err)
	}
	return d
}

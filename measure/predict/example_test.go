package predict_test

import (
	"fmt"
	"log"
	"strings"

	"github.com/google/go-tpm/tpm2"

	"github.com/sealboot/sealboot/measure/event"
	"github.com/sealboot/sealboot/measure/predict"
)

// What a machine will have in its image PCR is computed from the digests of what it boots.
func ExampleForImage() {
	image, err := predict.ForImage(event.Descriptor{
		Kind: event.KindLinux,
		Artifacts: []event.Artifact{
			{Role: event.RoleKernel, SHA256: strings.Repeat("aa", 32), Size: 12_000_000},
			{Role: event.RoleCmdline, SHA256: strings.Repeat("bb", 32), Size: 5},
		},
	}, []tpm2.TPMAlgID{tpm2.TPMAlgSHA256})
	if err != nil {
		log.Fatal(err)
	}
	fmt.Printf("%d records\n", len(image.Records))
	fmt.Printf("when attested %x\n", image.Attested[tpm2.TPMAlgSHA256])
	fmt.Printf("after the cap %x\n", image.AfterCap[tpm2.TPMAlgSHA256])
	// Output:
	// 3 records
	// when attested 8e7e76aea115ca846df555ae742203299545572e34432f37cf0129cc6773738d
	// after the cap dce669b7e53b6868a962a5f0b2515d8ead7f17ea848f727f7cbf61b511f51a7a
}

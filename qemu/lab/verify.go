package lab

import (
	"context"
	"crypto/x509"
	_ "embed"
	"encoding/hex"
	"encoding/pem"
	"fmt"
	"os"
	"strings"

	"github.com/sealboot/sealboot/attest/keys"
	"github.com/sealboot/sealboot/attest/wire"
)

//go:embed verify.sh
var verifyScript []byte

// checkWithOtherTools takes the last boot's evidence apart into files that other
// tools read, and has them verify it.
func (l *Lab) checkWithOtherTools(ctx context.Context) error {
	_, e, err := l.evidence(wire.PhaseBoot)
	if err != nil {
		return err
	}
	files, err := verifyFiles(e)
	if err != nil {
		return err
	}
	files["predicted"] = []byte(l.predicted())
	files["verify.sh"] = verifyScript
	dir := l.path("verify")
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return err
	}
	for name, content := range files {
		if err := os.WriteFile(l.path("verify", name), content, 0o755); err != nil {
			return err
		}
	}
	out, err := l.run(ctx, dir, "sh", "./verify.sh")
	if err != nil {
		return err
	}
	for line := range strings.Lines(out) {
		l.stages.note("%s", strings.TrimSpace(line))
	}
	return nil
}

// verifyFiles are the parts of evidence in the forms that tpm2-tools read.
func verifyFiles(e *wire.Evidence) (map[string][]byte, error) {
	_, device, err := wire.ParseRequest(e.M1)
	if err != nil {
		return nil, err
	}
	_, ak, err := keys.ParsePublic(device.AKPublic)
	if err != nil {
		return nil, err
	}
	der, err := x509.MarshalPKIXPublicKey(ak)
	if err != nil {
		return nil, err
	}
	challenge, err := challengeOf(e)
	if err != nil {
		return nil, err
	}
	var pcrs strings.Builder
	for i, n := range challenge.PCRs {
		fmt.Fprintf(&pcrs, "%d %x\n", n, e.PCRValues[i])
	}
	t := wire.Transcript(e.M1, e.M2)
	return map[string][]byte{
		"ak.pem":        pem.EncodeToMemory(&pem.Block{Type: "PUBLIC KEY", Bytes: der}),
		"quote.msg":     e.Quote,
		"quote.sig":     e.QuoteSignature,
		"qualification": []byte(hex.EncodeToString(t[:])),
		"pcrs":          []byte(pcrs.String()),
		"firmware.log":  e.FirmwareLog,
	}, nil
}

// challengeOf reads M2 out of evidence.
func challengeOf(e *wire.Evidence) (*wire.Challenge, error) {
	var signed wire.Signed
	var c wire.Challenge
	if err := wire.Unmarshal(e.M2, &signed); err != nil {
		return nil, err
	}
	if err := wire.Unmarshal(signed.Payload, &c); err != nil {
		return nil, err
	}
	if len(c.PCRs) != len(e.PCRValues) {
		return nil, fmt.Errorf("%d PCRs asked, %d values sent", len(c.PCRs), len(e.PCRValues))
	}
	return &c, nil
}

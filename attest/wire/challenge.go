package wire

import (
	"crypto/sha256"
	"errors"
	"fmt"
)

// Challenge is M2, signed under [DomainChallenge] over H(M1).
type Challenge struct {
	Version int    `json:"version"`
	Cookie  []byte `json:"cookie"` // attestd's own state, sealed; see [CookieKey]
	Nonce   []byte `json:"nonce"`  // 32 bytes, fresh
	Bank    string `json:"bank"`   // PCR bank to quote, "sha256"
	PCRs    []int  `json:"pcrs"`   // PCRs to quote, ascending
}

func (*Challenge) limit() int { return MaxMessage }

func (c *Challenge) check() error {
	return errors.Join(
		checkVersion(c.Version),
		checkSize("cookie", len(c.Cookie), 1<<10),
		checkExact("nonce", len(c.Nonce), 32),
		checkName("bank", c.Bank),
		checkPCRs("pcrs", c.PCRs),
	)
}

// checkPCRs accepts a non-empty ascending list of static PCRs. 16 and 23 can be reset by anyone and are never
// evidence; 17 to 22 belong to a dynamic launch.
func checkPCRs(name string, pcrs []int) error {
	if len(pcrs) == 0 {
		return fmt.Errorf("%s is empty", name)
	}
	last := -1
	for _, p := range pcrs {
		if p <= last || p > 15 {
			return fmt.Errorf("%s %v is not an ascending list of PCRs 0 to 15", name, pcrs)
		}
		last = p
	}
	return nil
}

// Transcript is T = SHA-256("sealboot/attest/v1" || H(M1) || H(M2)), over both messages as sent and received.
func Transcript(m1, m2 []byte) [32]byte {
	h1, h2 := HashMessage(m1), HashMessage(m2)
	h := sha256.New()
	h.Write([]byte("sealboot/attest/v1"))
	h.Write(h1[:])
	h.Write(h2[:])
	return [32]byte(h.Sum(nil))
}

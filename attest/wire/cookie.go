package wire

import (
	"crypto/rand"
	"encoding/binary"
	"errors"
	"fmt"
	"time"
)

// CookieLife is how long a challenge can be answered. It is asked for after measuring, so it need not outlast a download.
const CookieLife = 5 * time.Minute

var (
	// ErrCookie is returned for a cookie that this site's key did not seal.
	ErrCookie = errors.New("cookie is not ours")
	// ErrExpired is returned for a cookie past its life, or from the future.
	ErrExpired = errors.New("challenge expired; ask for a new one")
)

// Cookie is what attestd wants to know again when evidence arrives. Everything that M2 asked for is in it, so that
// nothing of M2 is believed because the device sent it back.
type Cookie struct {
	Nonce   [32]byte // M2's nonce; also the key of the claim
	Expires time.Time
	Request [32]byte // H(M1)
	Bank    string
	PCRs    []int
}

// CookieKey seals cookies. All replicas of a site share it. It is never used for anything else.
type CookieKey [32]byte

// The nonce picks a key of its own (HKDF), so a random nonce can never be used twice with one AES-GCM key.
func (k CookieKey) sealer(site string, nonce []byte) (*Sealer, error) {
	return newSealer(k[:], nonce, "sealboot/cookie/v1/"+site)
}

// Seal makes a cookie with a fresh nonce, which it also stores in c.
func (k CookieKey) Seal(site string, c *Cookie) ([]byte, error) {
	if len(c.Bank) == 0 || len(c.Bank) > 16 {
		return nil, fmt.Errorf("seal cookie: bank %q", c.Bank)
	}
	if err := checkPCRs("pcrs", c.PCRs); err != nil {
		return nil, fmt.Errorf("seal cookie: %w", err)
	}
	if _, err := rand.Read(c.Nonce[:]); err != nil {
		return nil, fmt.Errorf("seal cookie: %w", err)
	}
	s, err := k.sealer(site, c.Nonce[:])
	if err != nil {
		return nil, fmt.Errorf("seal cookie: %w", err)
	}
	var mask uint16
	for _, p := range c.PCRs {
		mask |= 1 << p
	}
	state := binary.BigEndian.AppendUint64(nil, uint64(c.Expires.Unix()))
	state = append(state, c.Request[:]...)
	state = binary.BigEndian.AppendUint16(state, mask)
	state = append(state, c.Bank...)
	return s.Seal(c.Nonce[:], state, nil), nil
}

// Open reads a cookie of this site and refuses one that is not within its life at now.
func (k CookieKey) Open(site string, sealed []byte, now time.Time) (*Cookie, error) {
	var c Cookie
	if len(sealed) < len(c.Nonce) {
		return nil, fmt.Errorf("open cookie: %w", ErrCookie)
	}
	copy(c.Nonce[:], sealed)
	s, err := k.sealer(site, c.Nonce[:])
	if err != nil {
		return nil, fmt.Errorf("open cookie: %w", err)
	}
	state, err := s.Open(sealed[len(c.Nonce):], nil)
	if err != nil || len(state) < 43 {
		return nil, fmt.Errorf("open cookie: %w", ErrCookie)
	}
	c.Expires = time.Unix(int64(binary.BigEndian.Uint64(state)), 0).UTC()
	copy(c.Request[:], state[8:40])
	mask := binary.BigEndian.Uint16(state[40:42])
	for p := range 16 {
		if mask&(1<<p) != 0 {
			c.PCRs = append(c.PCRs, p)
		}
	}
	c.Bank = string(state[42:])
	// A replica whose clock is behind sees a cookie from the future; a minute is what NTP forgives.
	if now.After(c.Expires) || now.Before(c.Expires.Add(-CookieLife-time.Minute)) {
		return nil, fmt.Errorf("open cookie: %w", ErrExpired)
	}
	return &c, nil
}

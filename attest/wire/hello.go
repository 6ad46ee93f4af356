package wire

import (
	"errors"
	"time"
)

// HelloRequest asks for the time and for the version floor, before anything is measured.
type HelloRequest struct {
	Version int    `json:"version"`
	Site    string `json:"site"`
	EK      string `json:"ek,omitempty"` // hex SHA-256 of the EK public area, if already known; see [Device.ID]
	Nonce   []byte `json:"nonce"`        // 32 bytes, fresh
}

func (*HelloRequest) limit() int { return MaxMessage }

func (h *HelloRequest) check() error {
	var ek error
	if h.EK != "" {
		ek = checkHex("ek", h.EK)
	}
	return errors.Join(checkVersion(h.Version), checkName("site", h.Site), ek, checkExact("nonce", len(h.Nonce), 32))
}

// Hello is the answer, signed under [DomainHello] over the hash of the request.
type Hello struct {
	Version int    `json:"version"`
	Nonce   []byte `json:"nonce"` // the request's
	Time    int64  `json:"time"`  // seconds since 1970, UTC
	// HealthyVersion is the highest image version that was reported healthy: this device's if the request named
	// it, else zero. A device may raise its rollback floor to it.
	HealthyVersion uint64 `json:"healthyVersion,omitempty"`
	// RepairFloor, if present, is an operator's order to write this floor anew where the device finds its rollback
	// floor destroyed, or so high that it shuts out the image at hand.
	RepairFloor *uint64 `json:"repairFloor,omitempty"`
	// Orders is the number of the last order of the operator to this device. The device says it again in M1, and with
	// the acknowledgement of that boot the orders up to it end; one that was given since is for the next boot.
	Orders uint64 `json:"orders,omitempty"`
}

func (*Hello) limit() int { return MaxMessage }

func (h *Hello) check() error {
	if h.Time <= 0 {
		return errors.New("time is not after 1970")
	}
	return errors.Join(checkVersion(h.Version), checkExact("nonce", len(h.Nonce), 32))
}

// Clock is the signed time.
func (h *Hello) Clock() time.Time { return time.Unix(h.Time, 0).UTC() }

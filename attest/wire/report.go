package wire

import "errors"

// Report tells attestd about a boot that failed before or outside of attestation. No one signs it: it is a hint for
// people, shown escaped and never decided upon.
type Report struct {
	Version int    `json:"version"`
	Site    string `json:"site"`
	EK      string `json:"ek,omitempty"` // hex SHA-256 of the EK public area, if known
	Stage   string `json:"stage"`        // "network", "fetch", "measure", "attest", ...
	Reason  string `json:"reason"`       // one line
	Loader  string `json:"loader"`       // version of the loader
}

func (*Report) limit() int { return MaxMessage }

func (r *Report) check() error {
	var ek error
	if r.EK != "" {
		ek = checkHex("ek", r.EK)
	}
	return errors.Join(
		checkVersion(r.Version),
		checkName("site", r.Site),
		ek,
		checkName("stage", r.Stage),
		checkSize("reason", len(r.Reason), 1<<10),
		checkSize("loader", len(r.Loader), 128),
	)
}

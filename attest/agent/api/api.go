// Package api is what an agent says to attestd over TLS with its certificate: who it is taken for, and that
// its OS is healthy. The messages are JSON; the certificate says which device speaks.
package api

// Paths of the agent's API. Both are POST.
const (
	PathWhoami = "/v1/agent/whoami"
	PathHealth = "/v1/agent/health"
)

// Identity is the answer to both calls: how attestd knows the caller.
type Identity struct {
	Site     string `json:"site"`
	Device   string `json:"device"`   // hex SHA-256 of the endorsement key's public area
	Label    string `json:"label"`    // the operator's name for it
	Decision string `json:"decision"` // the attestation that its certificate came from
	Image    string `json:"image"`    // what it booted, as last proven
	Version  int64  `json:"version"`  // of that image
	Healthy  int64  `json:"healthy"`  // highest version that it reported healthy
	Time     int64  `json:"time"`     // attestd's clock, seconds since 1970
}

// Health says that the OS works. It names no version: attestd knows what the device booted, and an OS
// must not be able to raise the floor above itself.
type Health struct {
	Boot string `json:"boot"` // decision of the boot that is healthy, from the attestation result
}

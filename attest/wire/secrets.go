package wire

import (
	"encoding/base64"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strconv"
)

// Secrets are what a device is attested for. They exist in clear only inside attestd and inside the device.
type Secrets struct {
	Version           int               `json:"version"`
	SealKey           []byte            `json:"sealKey"`                     // 32 bytes; unlocks the site
	FirstBoot         bool              `json:"firstBoot"`                   // no boot of this device was ever acknowledged
	AgentCertificate  []byte            `json:"agentCertificate"`            // PEM
	SiteCA            []byte            `json:"siteCA"`                      // PEM
	AttestationResult []byte            `json:"attestationResult,omitempty"` // attestd's signed verdict, for relying parties in the OS
	Extra             map[string][]byte `json:"extra,omitempty"`             // the operator's own secrets for the OS
}

func (*Secrets) limit() int { return MaxMessage }

func (s *Secrets) check() error {
	for name := range s.Extra {
		if err := checkName("extra", name); err != nil {
			return err
		}
	}
	return errors.Join(
		checkVersion(s.Version),
		checkExact("sealKey", len(s.SealKey), 32),
		checkSize("agentCertificate", len(s.AgentCertificate), 8<<10),
		checkSize("siteCA", len(s.SiteCA), 8<<10),
	)
}

// Wipe overwrites the secrets in memory.
func (s *Secrets) Wipe() {
	clear(s.SealKey)
	for _, v := range s.Extra {
		clear(v)
	}
	*s = Secrets{}
}

// encode writes what encoding/json would. That one keeps the buffer in which it encodes for the next message, and
// bytes.Buffer leaves a piece of the secrets behind each time it grows; here the result, which the caller wipes, is the
// only copy.
func (s *Secrets) encode() ([]byte, error) {
	names := slices.Sorted(maps.Keys(s.Extra))
	quoted := make([][]byte, len(names))
	size := 256 // names and punctuation of the fields
	for i, name := range names {
		var err error
		if quoted[i], err = encode(name); err != nil {
			return nil, fmt.Errorf("name of a secret: %w", err)
		}
		size += len(quoted[i]) + len(`:"",`) + base64.StdEncoding.EncodedLen(len(s.Extra[name]))
	}
	for _, v := range [][]byte{s.SealKey, s.AgentCertificate, s.SiteCA, s.AttestationResult} {
		size += base64.StdEncoding.EncodedLen(len(v))
	}
	out := strconv.AppendInt(append(make([]byte, 0, size), `{"version":`...), int64(s.Version), 10)
	out = appendBytes(append(out, `,"sealKey":`...), s.SealKey)
	out = strconv.AppendBool(append(out, `,"firstBoot":`...), s.FirstBoot)
	out = appendBytes(append(out, `,"agentCertificate":`...), s.AgentCertificate)
	out = appendBytes(append(out, `,"siteCA":`...), s.SiteCA)
	if len(s.AttestationResult) > 0 {
		out = appendBytes(append(out, `,"attestationResult":`...), s.AttestationResult)
	}
	for i, name := range names {
		begin := byte(',')
		if i == 0 {
			out, begin = append(out, `,"extra":`...), '{'
		}
		out = append(append(append(out, begin), quoted[i]...), ':')
		out = appendBytes(out, s.Extra[name])
	}
	if len(names) > 0 {
		out = append(out, '}')
	}
	return append(out, '}'), nil
}

// appendBytes writes a value as encoding/json writes []byte.
func appendBytes(out, v []byte) []byte {
	if v == nil {
		return append(out, "null"...)
	}
	return append(base64.StdEncoding.AppendEncode(append(out, '"'), v), '"')
}

// Package handover builds the archive that gives the booted operating system
// what the firmware knows: the event logs, the attestation result and the
// secrets that attestd released.
//
// It is one newc archive that is appended last to the initrd. Its names are
// the fixed list below: no message from the network can add one, or it could
// replace /init. Files have mode 0400, directories 0700, owner root, time 0,
// and the archive is padded to 512 bytes, so equal content gives equal bytes.
//
// Nothing of it is ever on the command line or on a disk.
package handover

import (
	"encoding/base64"
	"encoding/json"
	"fmt"
	"io"
	"maps"
	"slices"

	"github.com/sealboot/sealboot/boot/image/cpio"
)

// Dir is where the files are in the initramfs.
const Dir = ".extra/sealboot"

// Names of the files in Dir.
const (
	EventLog      = "eventlog.cel"
	FirmwareLog   = "binary_bios_measurements"
	Attestation   = "attestation.json"
	SealKey       = "seal.key"
	AgentCert     = "agent.crt"
	AgentApproval = "agent.approval"
	SiteCA        = "site-ca.crt"
	Secrets       = "secrets.json"
)

// systemd 262 and newer import what is here as trusted credentials.
const (
	credentials       = ".extra/system_credentials"
	credentialSealKey = "sealboot.seal-key.cred"
	credentialSecrets = "sealboot.secrets.cred"
)

// maxTotal bounds the archive in bytes: logs and secrets, not data.
const maxTotal = 64 << 20

// Content is what is handed over. A file whose field is empty is left out.
type Content struct {
	EventLog      []byte // CEL-TLV, with the cap's record
	FirmwareLog   []byte // TCG log of the platform firmware
	Attestation   []byte // JSON
	SealKey       []byte // secret
	AgentCert     []byte // PEM
	AgentApproval []byte
	SiteCA        []byte            // PEM
	Secrets       map[string][]byte // secret; becomes one JSON object, values in base64
}

// Write writes the archive to w. It keeps no copy of a secret.
func (c *Content) Write(w io.Writer) error {
	secrets, err := encodeSecrets(c.Secrets)
	if err != nil {
		return fmt.Errorf("build handover: %w", err)
	}
	defer clear(secrets)
	members := []member{
		{".extra", nil},
		{Dir, nil},
		{Dir + "/" + EventLog, c.EventLog},
		{Dir + "/" + FirmwareLog, c.FirmwareLog},
		{Dir + "/" + Attestation, c.Attestation},
		{Dir + "/" + SealKey, c.SealKey},
		{Dir + "/" + AgentCert, c.AgentCert},
		{Dir + "/" + AgentApproval, c.AgentApproval},
		{Dir + "/" + SiteCA, c.SiteCA},
		{Dir + "/" + Secrets, secrets},
	}
	if len(c.SealKey) > 0 || len(secrets) > 0 {
		members = append(members,
			member{credentials, nil},
			member{credentials + "/" + credentialSealKey, c.SealKey},
			member{credentials + "/" + credentialSecrets, secrets})
	}
	if err := write(w, members); err != nil {
		return fmt.Errorf("build handover: %w", err)
	}
	return nil
}

// member is a file, or a directory if its name is one of those.
type member struct {
	name string
	body []byte
}

func (m member) isDir() bool { return m.name == ".extra" || m.name == Dir || m.name == credentials }

func write(w io.Writer, members []member) (err error) {
	total := 0
	for _, m := range members {
		total += len(m.body)
	}
	if total > maxTotal {
		return fmt.Errorf("%d bytes of logs and secrets, allowed are %d", total, maxTotal)
	}
	cw := cpio.NewWriter(w)
	// Close also wipes the buffer, whatever went wrong.
	defer func() {
		if cerr := cw.Close(); err == nil {
			err = cerr
		}
	}()
	for i, m := range members {
		h := cpio.Header{Name: m.name, Ino: uint32(i + 1), Mode: cpio.ModeRegular | 0o400, Nlink: 1, Size: uint32(len(m.body))}
		switch {
		case m.isDir():
			h.Mode, h.Nlink = cpio.ModeDir|0o700, 2
		case len(m.body) == 0:
			continue
		}
		if err := cw.WriteHeader(&h); err != nil {
			return err
		}
		if _, err := cw.Write(m.body); err != nil {
			return err
		}
	}
	return nil
}

// encodeSecrets makes one JSON object with sorted names. encoding/json would
// leave copies of the values in memory; here the result is the only one.
func encodeSecrets(secrets map[string][]byte) ([]byte, error) {
	if len(secrets) == 0 {
		return nil, nil
	}
	size := len("{}\n")
	quoted := map[string][]byte{}
	for name, value := range secrets {
		q, err := json.Marshal(name)
		if err != nil {
			return nil, err
		}
		quoted[name] = q
		size += len(q) + len(`:"",`) + base64.StdEncoding.EncodedLen(len(value))
	}
	out := append(make([]byte, 0, size), '{')
	for i, name := range slices.Sorted(maps.Keys(secrets)) {
		if i > 0 {
			out = append(out, ',')
		}
		out = append(append(out, quoted[name]...), `:"`...)
		out = append(base64.StdEncoding.AppendEncode(out, secrets[name]), '"')
	}
	return append(out, "}\n"...), nil
}

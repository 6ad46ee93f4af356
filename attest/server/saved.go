package server

import (
	"path/filepath"

	"github.com/sealboot/sealboot/measure/atomicfile"
)

// saveEvidence writes the evidence of a decision to a file named after device and phase. Two files a device bound the
// room it takes. It is a convenience, so a failure is logged and nothing more; the audit record is what counts.
func (s *Server) saveEvidence(d *decision, m3 []byte) {
	if s.Evidence == "" {
		return
	}
	name := d.device.ID + "-" + string(d.verdict.Claimed.Phase) + ".json"
	if err := atomicfile.Write(filepath.Join(s.Evidence, name), m3, 0o600); err != nil {
		s.Log.Error("keep evidence", "decision", d.id, "error", err)
	}
}

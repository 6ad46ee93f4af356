package server

import (
	"os"
	"path/filepath"
)

// keep writes the evidence of a decision to a file named after device and phase. Two files a device bound the
// room it takes. It is a convenience, so a failure is logged and nothing more; the audit record is what counts.
func (s *Server) keep(d *decision, m3 []byte) {
	if s.Evidence == "" {
		return
	}
	if err := writeWhole(filepath.Join(s.Evidence, d.device.ID+"-"+string(d.verdict.Claimed.Phase)+".json"), m3); err != nil {
		s.Log.Error("keep evidence", "decision", d.id, "error", err)
	}
}

// writeWhole replaces a file at once, so that a reader never finds half of it.
func writeWhole(path string, content []byte) error {
	f, err := os.CreateTemp(filepath.Dir(path), ".new-")
	if err != nil {
		return err
	}
	defer os.Remove(f.Name())
	if _, err := f.Write(content); err != nil {
		f.Close()
		return err
	}
	if err := f.Close(); err != nil {
		return err
	}
	return os.Rename(f.Name(), path)
}

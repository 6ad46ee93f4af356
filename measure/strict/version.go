package strict

import (
	"encoding/json"
	"errors"
	"fmt"
)

// ErrNewer is matched by every [VersionError].
var ErrNewer = errors.New("newer than this program")

// A VersionError says that a document is of a version that this program does not know.
type VersionError struct{ Have, Known int }

func (e *VersionError) Error() string {
	if e.Have > e.Known {
		return fmt.Sprintf("it is of version %d, and version %d is the last that is known here: update this program", e.Have, e.Known)
	}
	return fmt.Sprintf("it is of version %d, which never was: want 1 to %d", e.Have, e.Known)
}

// Is matches [ErrNewer] if the document is newer.
func (e *VersionError) Is(target error) bool { return target == ErrNewer && e.Have > e.Known }

// CheckVersion refuses a document whose member "version" is beyond known, by a [VersionError]. It comes before everything
// else is read: a newer document may have members that a strict reader refuses by another word. A document without that
// member is of version 1. It does not look for repeated members; [Decode] does.
func CheckVersion(raw []byte, known int) error {
	var d struct {
		Version *int `json:"version"`
	}
	if json.Unmarshal(raw, &d) != nil || d.Version == nil {
		return nil // of version 1, or nothing that the strict reader would take
	}
	if v := *d.Version; v < 1 || v > known {
		return &VersionError{v, known}
	}
	return nil
}

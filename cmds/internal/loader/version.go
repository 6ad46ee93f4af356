package loader

import (
	"os"
	"strings"

	"github.com/sealboot/sealboot/boot/config"
	"github.com/sealboot/sealboot/cmds/internal/version"
)

// Version is what the loader calls itself towards people. In a loader image it
// is in a file: the busybox there is the same whatever commit it is built from.
func Version() string {
	if v := version.String(); v != version.Unknown {
		return v
	}
	if text, err := os.ReadFile(config.VersionPath); err == nil {
		return strings.TrimSpace(string(text))
	}
	return version.Unknown
}

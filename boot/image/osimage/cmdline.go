package osimage

import (
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"os"
	"strings"

	"github.com/sealboot/sealboot/boot/base/cmdline"
	"github.com/sealboot/sealboot/boot/image/uki"
	"github.com/sealboot/sealboot/measure/event"
)

// maxCmdline is more than any architecture takes, in bytes.
const maxCmdline = 16 << 10

// x86MaxCmdline is COMMAND_LINE_SIZE of kernels whose header does not say,
// without the final NUL. arm64 has the same.
const x86MaxCmdline = 2047

// joinCmdline returns the final bytes: the image's part and the site's with a
// space between them. Files bring line ends along: those at the edges go. An
// image's part behind which the kernel would not read the site's is refused.
func joinCmdline(image, site string) (string, error) {
	image, site = strings.TrimSpace(image), strings.TrimSpace(site)
	if _, err := cmdline.Options(image); err != nil && site != "" {
		return "", fmt.Errorf("%w: the image's command line %q: %w, and the site's part follows it", ErrInvalid, image, err)
	}
	line := strings.TrimSpace(image + " " + site)
	if len(line) > maxCmdline {
		return "", fmt.Errorf("%w: command line of %d bytes", ErrInvalid, len(line))
	}
	for _, c := range []byte(line) {
		if c < ' ' || c == 0x7f {
			return "", fmt.Errorf("%w: control character %#x in the command line %q", ErrInvalid, c, line)
		}
	}
	return line, nil
}

// checkCmdline compares the command line with what the kernel takes, which
// kexec would only report as "invalid argument".
func checkCmdline(kernel *os.File, line string) error {
	limit := int64(x86MaxCmdline)
	size, err := sizeOf(kernel)
	if err != nil {
		return err
	}
	if bz, err := uki.ParseBzImage(kernel, size); err == nil && bz.CmdlineSize > 0 {
		limit = bz.CmdlineSize
	}
	if int64(len(line)) > limit {
		return fmt.Errorf("%w: the command line of image and site config has %d bytes, the kernel takes %d", ErrInvalid, len(line), limit)
	}
	return nil
}

func cmdlineArtifact(line string) event.Artifact {
	sum := sha256.Sum256([]byte(line))
	return event.Artifact{Role: event.RoleCmdline, SHA256: hex.EncodeToString(sum[:]), Size: int64(len(line))}
}

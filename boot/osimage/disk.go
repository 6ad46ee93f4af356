package osimage

import (
	"context"
	"fmt"

	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
)

func fromDiskArtifact(ctx context.Context, layers map[role]ocispec.Descriptor, cmdline string, content Content, opts Options) (*Image, error) {
	return nil, fmt.Errorf("%w: disk images", ErrUnsupported)
}

package fetch

import (
	"fmt"

	"github.com/sealboot/sealboot/boot/base/meminfo"
)

func checkRoom(room func() (int64, error), need int64) error {
	have, err := room()
	if err != nil {
		return fmt.Errorf("finding out how much memory there is: %w", err)
	}
	if need > have {
		return &meminfo.ShortError{What: "what is to be fetched", Need: need, Available: have}
	}
	return nil
}

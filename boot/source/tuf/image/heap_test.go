package image

import (
	"testing"

	"github.com/sealboot/sealboot/measure/heaptest"
)

func TestHeap(t *testing.T) {
	bound := heaptest.Bound{Fixed: 512 << 10, PerByte: 48}
	for _, form := range []string{`%s`, `{"sealboot":%s}`, `{"sealboot":{"oci":%s}}`, `{"else":%s}`} {
		bound.JSON(t, form, maxCustom, func(raw []byte) { ParseCustom(raw) })
		bound.JSON(t, form, maxLinux, func(raw []byte) { ParseLinux(raw) })
	}
}

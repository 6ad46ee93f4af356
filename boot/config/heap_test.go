package config_test

import (
	"testing"

	"github.com/sealboot/sealboot/boot/config"
	"github.com/sealboot/sealboot/measure/heaptest"
)

// TestHeap: the host config is on a volume that anybody can have written. It is measured, and still read.
func TestHeap(t *testing.T) {
	bound := heaptest.Bound{Fixed: 1 << 20, PerByte: 16}
	for _, form := range []string{`%s`, `{"interfaces":%s}`, `{"interfaces":[{"addresses":%s}]}`, `{"dns":%s}`, `{"proxy":%s}`} {
		bound.JSON(t, form, 1<<20, func(raw []byte) { config.ParseHost(raw) })
	}
	for _, form := range []string{`%s`, `{"sources":%s}`, `{"sources":[{"keys":%s}]}`} {
		bound.JSON(t, form, 1<<20, func(raw []byte) { config.ParseSite(raw) })
	}
}

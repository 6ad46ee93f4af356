package verify

import (
	"fmt"

	"github.com/sealboot/sealboot/measure/event"
	"github.com/sealboot/sealboot/measure/fwlog"
)

// Describe names a record of the loader's log for people: "artifact kernel".
func Describe(r event.Record) string {
	if r.Name == "" {
		return string(r.Type)
	}
	return string(r.Type) + " " + r.Name
}

// DescribeFirmware names an event of the firmware's log for people: "#12 EV_SEPARATOR".
func DescribeFirmware(e fwlog.Event) string { return fmt.Sprintf("#%d %v", e.Num, e.Type) }

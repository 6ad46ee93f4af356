package verify

import (
	"encoding/binary"
	"fmt"
	"strings"

	"github.com/sealboot/sealboot/measure/event"
	"github.com/sealboot/sealboot/measure/fwlog"
	"github.com/sealboot/sealboot/measure/plaintext"
)

// Describe names a record of the loader's log for people: "artifact kernel".
func Describe(r event.Record) string {
	if r.Name == "" {
		return string(r.Type)
	}
	return string(r.Type) + " " + r.Name
}

// DescribeFirmware names an event of the firmware's log for people: "#4 EV_EFI_VARIABLE_DRIVER_CONFIG SecureBoot". What
// follows the type is what the event says of itself, which its digest need not cover: it is a hint where to look.
func DescribeFirmware(e fwlog.Event) string {
	text := fmt.Sprintf("#%d %v", e.Num, e.Type)
	if hint := firmwareHint(e); hint != "" {
		text += " " + hint
	}
	return text
}

// maxHint keeps a denial on one line.
const maxHint = 48

func firmwareHint(e fwlog.Event) string {
	switch e.Type {
	case fwlog.EventEFIAction, fwlog.EventAction:
		return printable(e.Data, 1)
	case fwlog.EventEFIVariableDriverConfig, fwlog.EventEFIVariableBoot, fwlog.EventEFIVariableBoot2, fwlog.EventEFIVariableAuthority:
		// UEFI_VARIABLE_DATA: GUID, length of the name in characters, length of the data, name, data.
		const header = 16 + 8 + 8
		if len(e.Data) < header {
			return ""
		}
		name := e.Data[header:]
		if n := binary.LittleEndian.Uint64(e.Data[16:]); n <= uint64(len(name)/2) {
			return printable(name[:2*n], 2)
		}
	}
	return ""
}

// printable takes every step-th byte as a character, ASCII being the low half of UTF-16, up to the first that is none.
func printable(data []byte, step int) string {
	var text []byte
	for i := 0; i < len(data) && len(text) < maxHint; i += step {
		text = append(text, data[i])
	}
	return strings.TrimSpace(plaintext.Prefix(text))
}

package fwlog

import (
	"testing"

	"github.com/sealboot/sealboot/measure/heaptest"
)

// TestHeap: a log comes from firmware, and from anybody who sends evidence.
func TestHeap(t *testing.T) {
	small := join(header(11), record(0, EventNoAction, "StartupLocality\x00\x03"), record(0, EventSeparator, ""))
	heaptest.Bound{Fixed: 256 << 10, PerByte: 24}.Mutated(t, "log", small, MaxSize, func(raw []byte) { Parse(raw) })
	heaptest.Bound{Fixed: 256 << 10, PerByte: 24}.Total(t, "OVMF's log", len(ovmf(t)), func() { Parse(ovmf(t)) })
	events := join(header(11))
	for len(events) < MaxSize-64 {
		events = join(events, record(0, EventSeparator, ""))
	}
	heaptest.Bound{Fixed: 256 << 10, PerByte: 24}.Total(t, "events without content", len(events), func() { Parse(events) })
}

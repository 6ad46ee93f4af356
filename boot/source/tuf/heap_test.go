package tuf

import (
	"testing"
	"time"

	"github.com/sealboot/sealboot/measure/heaptest"
)

// TestHeap: metadata is parsed before its signatures are checked, each role up to its own size. Five million bytes that
// are full of targets are in use, so those may take the most.
func TestHeap(t *testing.T) {
	limits := Limits{}.withDefaults()
	bound := heaptest.Bound{Fixed: 8 << 20, PerByte: 80}
	for _, form := range []string{
		`{"signatures":[],"signed":{"_type":"targets","spec_version":"1.0","version":1,"expires":"2030-01-01T00:00:00Z","targets":%s}}`,
		`{"signatures":[],"signed":{"_type":"targets","targets":{},"delegations":{"keys":%s,"roles":[]}}}`,
		`{"signatures":[],"signed":{"_type":"targets","targets":{},"delegations":{"keys":{},"roles":%s}}}`,
		`{"signatures":[],"signed":{"_type":"targets","targets":{"a":{"length":1,"hashes":{"sha256":"00"},"custom":%s}}}}`,
		`{"signatures":%s,"signed":{"_type":"targets","targets":{}}}`,
	} {
		bound.JSON(t, form, int(limits.Targets), func(raw []byte) { parse(RoleTargets, raw, checkTargets) })
	}
	bound.JSON(t, `{"signatures":[],"signed":{"_type":"snapshot","meta":%s}}`, int(limits.Snapshot), func(raw []byte) { parse(RoleSnapshot, raw, checkSnapshot) })
	bound.JSON(t, `{"signatures":[],"signed":{"_type":"timestamp","meta":%s}}`, int(limits.Timestamp), func(raw []byte) { parse(RoleTimestamp, raw, checkTimestamp) })
	for _, form := range []string{`%s`, `{"signatures":[],"signed":{"_type":"root","keys":%s}}`, `{"signatures":[],"signed":{"_type":"root","keys":{},"roles":{"root":{"keyids":%s,"threshold":1}}}}`} {
		bound.JSON(t, form, int(limits.Root), func(raw []byte) {
			parse(RoleRoot, raw, checkRoot)
			newTrust(raw, time.Unix(1, 0))
		})
	}
}

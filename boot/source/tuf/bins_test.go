package tuf

import (
	"fmt"
	"strings"
	"testing"
)

// TestHashBins: the snapshot of a repository with 16,384 hash bins, which is what PEP 458 has for PyPI, is dense: a
// value in seven bytes. No limit on what a hostile file holds may refuse it.
func TestHashBins(t *testing.T) {
	const bits = 14
	for _, prefix := range []string{"b", "bins", "delegated_bin"} {
		var meta strings.Builder
		meta.WriteString(`"targets.json":{"version":1}`)
		for bin := range 1 << bits {
			fmt.Fprintf(&meta, `,"%s-%04x.json":{"version":1}`, prefix, bin)
		}
		raw := `{"signatures":[],"signed":{"_type":"snapshot","expires":"2030-01-01T00:00:00Z","meta":{` + meta.String() + `},"spec_version":"1.0.31","version":1}}`
		if _, err := parse(RoleSnapshot, []byte(raw), checkSnapshot); err != nil {
			t.Errorf("bins called %q, %d bytes: %v", prefix, len(raw), err)
		}
	}
}

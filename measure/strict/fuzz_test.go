package strict

import (
	"encoding/json"
	"testing"
)

// FuzzDecode: of what is accepted, a reader who knows the exact names alone makes
// the same.
func FuzzDecode(f *testing.F) {
	type inner struct {
		Size int `json:"size"`
	}
	type doc struct {
		Type  string   `json:"type"`
		Parts []*inner `json:"parts"`
	}
	f.Add([]byte(`{"type":"a","parts":[{"size":1},null]}`))
	f.Add([]byte(`{"Type":"a"}`))
	f.Add([]byte(`{"type":"a","type":"b"}`))
	f.Fuzz(func(t *testing.T, raw []byte) {
		var d doc
		if Decode(raw, &d) != nil {
			return
		}
		var exact map[string]any
		if err := json.Unmarshal(raw, &exact); err != nil {
			t.Fatal(err)
		}
		if s, _ := exact["type"].(string); s != d.Type {
			t.Errorf("%q: type %q, by its exact name %q", raw, d.Type, s)
		}
		parts, _ := exact["parts"].([]any)
		if len(parts) != len(d.Parts) {
			t.Fatalf("%q: %d parts, by their exact name %d", raw, len(d.Parts), len(parts))
		}
		for i, p := range parts {
			members, _ := p.(map[string]any)
			n, _ := members["size"].(float64)
			if d.Parts[i] != nil && d.Parts[i].Size != int(n) && n < 1<<53 {
				t.Errorf("%q: size %d, by its exact name %v", raw, d.Parts[i].Size, n)
			}
		}
	})
}

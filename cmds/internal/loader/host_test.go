package loader

import (
	"bytes"
	"slices"
	"strings"
	"testing"

	"github.com/sealboot/sealboot/boot/config"
	"github.com/sealboot/sealboot/boot/machine/console"
)

// TestHostConfigThatLeadsNowhere has an operating system leave a host config that is right in every word.
func TestHostConfigThatLeadsNowhere(t *testing.T) {
	for _, c := range []struct {
		name, raw string
		want      []bool // by round, whether the host config is used
	}{
		{"none", "", []bool{false, false, false}},
		{"an address of elsewhere", `{"interfaces":[{"name":"eth0","addresses":["192.0.2.7/24"]}]}`, []bool{true, true, false, true, true, false, true}},
		{"a proxy of elsewhere", `{"proxy":"http://192.0.2.7:3128"}`, []bool{true, true, false, true, true, false, true}},
		{"broken", `{"proxy":`, []bool{false, false, false}},
	} {
		var out bytes.Buffer
		m, err := New(Options{Site: new(config.Site), Console: console.New(console.Options{Out: &out})})
		if err != nil {
			t.Fatal(err)
		}
		var raw []byte
		if c.raw != "" {
			raw = []byte(c.raw)
		}
		var got []bool
		for range c.want {
			got = append(got, m.hostFor(raw) != nil)
		}
		if !slices.Equal(got, c.want) {
			t.Errorf("%s: used in rounds %v, want %v", c.name, got, c.want)
		}
		if told := strings.Contains(out.String(), "led nowhere"); told != slices.Contains(c.want, true) {
			t.Errorf("%s: the console says\n%s", c.name, &out)
		}
		if err := m.Close(); err != nil {
			t.Error(err)
		}
	}
}

package version

import (
	"runtime/debug"
	"testing"
)

func TestOf(t *testing.T) {
	ours := func(v string) debug.Module { return debug.Module{Path: "github.com/sealboot/sealboot", Version: v} }
	dep := ours("v1.2.3")
	for want, info := range map[string]debug.BuildInfo{
		"v0.0.0-20261123082100-60a4469abcde+dirty": {Main: ours("v0.0.0-20261123082100-60a4469abcde+dirty")},
		"v1.2.3": {Main: debug.Module{Path: "example.org/image", Version: "v9.0.0"}, Deps: []*debug.Module{{Path: "example.org/x", Version: "v8.0.0"}, &dep}},
		Unknown:  {Main: ours("(devel)")},
	} {
		if got := of(&info); got != want {
			t.Errorf("got %q, want %q", got, want)
		}
	}
	if got := of(&debug.BuildInfo{}); got != Unknown {
		t.Errorf("without modules: %q, want %q", got, Unknown)
	}
}

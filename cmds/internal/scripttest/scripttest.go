// Package scripttest runs the scripts that show how a command is used, and what it says
// to the common mistakes: testdata/script/*.txtar, in the language of testscript. A test
// with -update writes what the commands print now into them.
package scripttest

import (
	"testing"

	"github.com/rogpeppe/go-internal/testscript"

	"github.com/sealboot/sealboot/measure/golden"
)

// Main is for TestMain of a command called name: scripts run it as a program of its own.
func Main(m *testing.M, name string, main func()) {
	testscript.Main(m, map[string]func(){name: main})
}

// Run runs the scripts of the package that is tested.
func Run(t *testing.T) {
	t.Helper()
	testscript.Run(t, testscript.Params{
		Dir: "testdata/script", UpdateScripts: golden.Update(), RequireExplicitExec: true, RequireUniqueNames: true,
	})
}

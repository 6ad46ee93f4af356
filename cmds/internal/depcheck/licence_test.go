package depcheck

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// licences are words of the licences under which somebody else's code may go
// into firmware: Apache 2.0, MIT and BSD, which ask for a notice and no more.
var licences = []string{
	"Apache License",
	"Permission is hereby granted, free of charge",
	"Redistribution and use in source and binary forms",
}

// TestLicences reads the licence of every module that firmware is made of.
func TestLicences(t *testing.T) {
	modules, err := list("-deps", "-f", `{{with .Module}}{{if not .Main}}{{.Path}}={{.Dir}}{{end}}{{end}}`, module+"cmds/netboot",
		module+"cmds/ociboot", module+"cmds/tufboot", module+"cmds/attest", "github.com/u-root/u-root/cmds/core/init")
	if err != nil {
		t.Fatal(err)
	}
	seen := map[string]bool{}
	for _, m := range modules {
		if seen[m] {
			continue
		}
		seen[m] = true
		name, dir, _ := strings.Cut(m, "=")
		if found := licence(t, dir); found == "" {
			t.Errorf("%s has none of the licences that firmware may have: see %s", name, dir)
		}
	}
	if len(seen) < 10 {
		t.Errorf("firmware is made of %d modules only: %v", len(seen), modules)
	}
}

// licence is the one of a module that is in the list, or empty. Another one
// next to it makes it empty too: somebody has to read them.
func licence(t *testing.T, dir string) string {
	t.Helper()
	files, err := filepath.Glob(filepath.Join(dir, "[Ll][Ii][Cc][Ee][Nn][CcSs][Ee]*"))
	if err != nil {
		t.Fatal(err)
	}
	found := ""
	for _, f := range files {
		if strings.HasSuffix(f, ".docs") { // of documentation, which is not linked
			continue
		}
		text, err := os.ReadFile(f)
		if err != nil {
			t.Fatal(err)
		}
		i := 0
		for i < len(licences) && !strings.Contains(string(text), licences[i]) {
			i++
		}
		if i == len(licences) || strings.Contains(string(text), "GENERAL PUBLIC LICENSE") {
			return ""
		}
		found = licences[i]
	}
	return found
}

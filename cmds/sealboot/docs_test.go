package main

import (
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
)

// remark is what stands behind a command line of the documents, in words or as a comment.
var remark = regexp.MustCompile(`\s{2,}[^\s-].*$|\s+#.*$`)

// TestDocs parses every command line of sealboot in the documents, as [TestExamples] does those of the help.
func TestDocs(t *testing.T) {
	files, err := filepath.Glob("../../docs/*.md")
	if err != nil {
		t.Fatal(err)
	}
	lines := 0
	for _, file := range files {
		text, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		fenced := false
		for line := range strings.Lines(strings.ReplaceAll(string(text), "\\\n", "")) {
			if strings.HasPrefix(line, "```") {
				fenced = !fenced
			}
			command := strings.TrimSpace(line)
			if !strings.HasPrefix(command, "sealboot ") || !fenced && !strings.HasPrefix(line, "    ") {
				continue
			}
			lines++
			t.Run(filepath.Base(file), func(t *testing.T) {
				example(t, remark.ReplaceAllString(command, ""))
			})
		}
	}
	if lines < 20 {
		t.Errorf("found %d command lines only", lines)
	}
}

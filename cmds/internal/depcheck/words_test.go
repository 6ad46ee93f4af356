package depcheck

import (
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
)

// unwanted are words that docs/style.md keeps out of comments and documents.
var unwanted = regexp.MustCompile(`(?i)\b(whoever|nobody|beside|folders?)\b`)

// comment is what a line of Go says to its reader; strings are left to those who see them.
var comment = regexp.MustCompile("^(?:[^\"`]|\"[^\"]*\"|`[^`]*`)*?//(.*)$")

func TestWords(t *testing.T) {
	root, err := exec.CommandContext(t.Context(), "git", "rev-parse", "--show-toplevel").Output()
	if err != nil {
		t.Skipf("no checkout: %v", err)
	}
	top := strings.TrimSpace(string(root))
	files, err := exec.CommandContext(t.Context(), "git", "-C", top, "ls-files", "*.go", "*.md").Output()
	if err != nil {
		t.Fatal(err)
	}
	for _, name := range strings.Fields(string(files)) {
		if name == "docs/style.md" { // which names them
			continue
		}
		text, err := os.ReadFile(filepath.Join(top, name))
		if os.IsNotExist(err) {
			continue // removed, and not committed yet
		}
		if err != nil {
			t.Fatal(err)
		}
		n := 0
		for line := range strings.Lines(string(text)) {
			n++
			said := line
			if strings.HasSuffix(name, ".go") {
				found := comment.FindStringSubmatch(strings.TrimSuffix(line, "\n"))
				if found == nil {
					continue
				}
				said = found[1]
			}
			if word := unwanted.FindString(said); word != "" {
				t.Errorf("%s:%d: %q; docs/style.md says what to write instead", name, n, word)
			}
		}
	}
}

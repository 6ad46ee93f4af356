package initramfs

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"regexp"
	"strings"
)

// versionForm is what a version may look like: it goes to consoles, logs and pages.
var versionForm = regexp.MustCompile(`^[0-9A-Za-z.+~_-]{1,64}$`)

// SourceVersion names the state of the Git repository at source in the form that
// the go command has for a module: the tag of a release ("v1.2.0"), else the time
// and name of the commit ("v0.0.0-20261123082100-60a4469abcde"), with "+dirty"
// behind it when files differ from the commit. It is "devel" where there is no
// repository, no git command, or only a repository around source.
func SourceVersion(ctx context.Context, source string) string {
	git := func(arg ...string) (string, bool) {
		cmd := exec.CommandContext(ctx, "git", arg...)
		cmd.Dir = source
		cmd.Env = append(os.Environ(), "LC_ALL=C", "TZ=UTC", "GIT_OPTIONAL_LOCKS=0")
		out, err := cmd.Output()
		return strings.TrimSpace(string(out)), err == nil
	}
	inside, repository := git("rev-parse", "--show-prefix")
	commit, committed := git("log", "-1", "--format=%cd %H", "--date=format-local:%Y%m%d%H%M%S")
	changes, compared := git("status", "--porcelain")
	if !repository || inside != "" || !committed || !compared {
		return "devel"
	}
	dirty := ""
	if changes != "" {
		dirty = "+dirty"
	}
	tag, released := git("describe", "--tags", "--exact-match", "--match=v[0-9]*")
	if version := tag + dirty; released && versionForm.MatchString(version) {
		return version
	}
	at, name, _ := strings.Cut(commit, " ")
	return fmt.Sprintf("v0.0.0-%s-%.12s%s", at, name, dirty)
}

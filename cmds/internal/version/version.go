// Package version tells what a command was built from, for people.
package version

import "runtime/debug"

// Unknown is the version of what was not built from a Git repository.
const Unknown = "devel"

// String is the command's version, as the go command found it in the Git
// repository: a release, or the time and name of a commit, such as
// v0.0.0-20261123082100-60a4469abcde. Local changes add "+dirty".
func String() string {
	info, ok := debug.ReadBuildInfo()
	if !ok {
		return Unknown
	}
	return of(info)
}

// of looks for Sealboot among the modules, since its commands are also built into other programs.
func of(info *debug.BuildInfo) string {
	for _, m := range append([]*debug.Module{&info.Main}, info.Deps...) {
		if m.Path == "github.com/sealboot/sealboot" && m.Version != "" && m.Version != "(devel)" {
			return m.Version
		}
	}
	return Unknown
}

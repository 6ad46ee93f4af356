package tufrepo

import (
	"fmt"
	"maps"
	"slices"
	"strings"
	"unicode"
	"unicode/utf8"
)

const (
	maxRoleName = 128 // bytes: VERSION.NAME.json is a file everywhere, encrypted directories included
	maxPart     = 180 // bytes of a target's name between slashes: a digest of 64 goes before the last
)

// checkRoleName refuses names of new roles that some web server, bucket or file
// system could not serve as the file VERSION.NAME.json, and those that it could mix
// up with another role. No client escapes anything in what is left.
func (e *Edit) checkRoleName(name string) error {
	if why := e.unservable(name); why != "" {
		return fmt.Errorf("%w: the role name %+q cannot be served as a file by every web server: %s", ErrChange, name, why)
	}
	return nil
}

func (e *Edit) unservable(name string) string {
	switch {
	case len(name) > maxRoleName:
		return fmt.Sprintf("it has %d bytes, and %d are the most", len(name), maxRoleName)
	case strings.ContainsFunc(name, func(r rune) bool { return !isPlain(r) }):
		return "it may have letters and digits of ASCII, \"-\" and \"_\" only; slashes and dots are read as parts of a path or of a version, anything else is escaped in more than one way"
	case !isAlphanumeric(rune(name[0])):
		return "it has to begin with a letter or a digit"
	case isDevice(name):
		return "it is the name of a device on Windows"
	}
	others := slices.Concat(topLevel, slices.Sorted(maps.Keys(e.roles)), slices.Sorted(maps.Keys(e.published.versions)))
	for _, other := range others {
		if other != name && strings.EqualFold(other, name) {
			return fmt.Sprintf("it differs from the role %s in upper and lower case alone", other)
		}
	}
	return ""
}

func isAlphanumeric(r rune) bool {
	return '0' <= r && r <= '9' || 'a' <= r && r <= 'z' || 'A' <= r && r <= 'Z'
}

func isPlain(r rune) bool { return isAlphanumeric(r) || r == '-' || r == '_' }

// isDevice says whether Windows takes the name for a device, whatever comes after a
// dot.
func isDevice(name string) bool {
	name = strings.ToLower(name)
	if port, ok := strings.CutPrefix(name, "com"); ok || strings.HasPrefix(name, "lpt") {
		if !ok {
			port = name[len("lpt"):]
		}
		return len(port) == 1 && '0' <= port[0] && port[0] <= '9'
	}
	return slices.Contains([]string{"con", "prn", "aux", "nul"}, name)
}

// checkTargetName refuses names of targets that cannot be a file below targets/ and
// a path in a URL at once. Clients escape a target's name, so that more is allowed
// than in a role's.
func checkTargetName(name string) error {
	why := ""
	for _, part := range strings.Split(name, "/") {
		switch {
		case part == "" || part == "." || part == "..":
			why = "no part between slashes may be empty, \".\" or \"..\""
		case len(part) > maxPart:
			why = fmt.Sprintf("a part has %d bytes, and %d are the most", len(part), maxPart)
		}
	}
	if !utf8.ValidString(name) || strings.ContainsFunc(name, unicode.IsControl) || strings.Contains(name, `\`) {
		why = "control characters, backslashes and bytes that are not UTF-8 are not served by every web server"
	}
	if why != "" {
		return fmt.Errorf("%w: target name %+q: %s", ErrChange, name, why)
	}
	return nil
}

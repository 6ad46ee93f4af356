package config

import (
	"crypto/tls"
	"crypto/x509"
	"errors"
	"net/url"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/sealboot/sealboot/boot/base/cmdline"
	"github.com/sealboot/sealboot/boot/base/platform"
	"github.com/sealboot/sealboot/measure/redact"
)

var joinToken = regexp.MustCompile(`^[A-Za-z0-9_-]{16,128}$`)

var siteName = regexp.MustCompile(`^[A-Za-z0-9][A-Za-z0-9._-]{0,62}$`)

// problems collects every fault of a file, so that one run shows them all.
type problems []error

func (p *problems) addf(path, format string, args ...any) {
	*p = append(*p, fieldErrorf(path, format, args...))
}

func (p *problems) oneOf(path, got string, want ...string) {
	if !slices.Contains(want, got) {
		p.addf(path, "want one of %s, found %q", strings.Join(want, ", "), shorten(got))
	}
}

func (p *problems) ca(path, text string) {
	if text == "" {
		return
	}
	if _, err := CertPool(text); err != nil {
		p.addf(path, "%v", err)
	}
}

func (p *problems) httpURL(path, text string) *url.URL {
	u, err := url.Parse(text)
	if err != nil || u.Host == "" || (u.Scheme != "https" && u.Scheme != "http") {
		p.addf(path, "want a URL such as https://host/path, found %q", shorten(redact.Text(text)))
		return nil
	}
	if u.User != nil || u.RawQuery != "" || u.Fragment != "" {
		p.addf(path, "want a URL without user, query or fragment, found %q", shorten(redact.Text(text)))
		return nil
	}
	return u
}

func (s *Site) check() error {
	var p problems
	if !siteName.MatchString(s.Name) {
		p.addf("site", "want 1 to 63 letters, digits, dots, dashes or underscores, found %q", shorten(s.Name))
	}
	s.checkAttestd(&p)
	if len(s.Sources) == 0 {
		p.addf("sources", "want at least one source, found none")
	}
	for i := range s.Sources {
		s.checkSource(&p, index("sources", i), &s.Sources[i])
	}
	if len(s.Cmdline) > 2048 || strings.ContainsFunc(s.Cmdline, func(r rune) bool { return r < ' ' || r == 0x7f }) {
		p.addf("cmdline", "want at most 2048 bytes on one line, without control characters")
	}
	if _, err := cmdline.Options(s.Cmdline); err != nil {
		p.addf("cmdline", "%v: want options of the kernel alone", err)
	}
	s.checkPCRs(&p)
	p.oneOf("clock", s.Clock, "require", "prefer", "off")
	p.oneOf("floor", s.Floor, FloorRequire, FloorOptional)
	if s.Clock == "off" && !s.Lab {
		p.addf("clock", `"off" is for the lab: want "lab": true with it`)
	}
	if s.Console.JSON != "" && !device.MatchString(s.Console.JSON) {
		p.addf("console.json", "want a device such as /dev/ttyS1, found %q", shorten(s.Console.JSON))
	}
	if s.BuildTime != "" {
		if _, err := s.Built(); err != nil {
			p.addf("buildTime", "%v", err)
		}
	}
	if s.Rounds < 1 || s.Rounds > 1000 {
		p.addf("rounds", "want 1 to 1000, found %d", s.Rounds)
	}
	if s.Watchdog != 0 && (s.Watchdog < 60 || s.Watchdog > 3600) {
		p.addf("watchdog", "want 60 to 3600 seconds, or 0 for none, found %d", s.Watchdog)
	}
	p.oneOf("end", s.End, "retry", "reboot", "poweroff", "shell")
	if s.End == "shell" && !s.Shell {
		p.addf("end", `"shell" needs an initramfs with a shell: want "shell": true with it`)
	}
	return errors.Join(p...)
}

// Built returns BuildTime, or the zero time when there is none.
func (s *Site) Built() (time.Time, error) {
	if s.BuildTime == "" {
		return time.Time{}, nil
	}
	t, err := time.Parse(time.RFC3339, s.BuildTime)
	if err != nil || t.Location() != time.UTC || t.Year() < 2020 || t.Year() > 2200 {
		return time.Time{}, errors.New("want a time in UTC such as 2026-01-31T00:00:00Z, found " + strconv.Quote(shorten(s.BuildTime)))
	}
	return t, nil
}

func (s *Site) checkPCRs(p *problems) {
	check := func(path string, n int) {
		// 0-7 are the firmware's, 9-11 the kernel's, the stub's and IMA's, 15
		// the OS's; 16 and above can be reset.
		if n != 8 && (n < 12 || n > 14) {
			p.addf(path, "want 8, 12, 13 or 14, found %d", n)
		}
	}
	check("pcrs.image", s.PCRs.Image)
	check("pcrs.authority", s.PCRs.Authority)
	if s.PCRs.Image == s.PCRs.Authority {
		p.addf("pcrs", "want two different numbers, found %d twice", s.PCRs.Image)
	}
}

func (s *Site) checkAttestd(p *problems) {
	if s.Attestd == nil {
		if s.ServerKey != nil || s.ReleaseKey != nil {
			p.addf("attestd", "want it together with serverKey and releaseKey, found none")
		}
		return
	}
	check := func(path string, der []byte) {
		if der == nil {
			p.addf(path, "want a key, since there is an attestd; found none")
		} else if _, err := PublicKey(der); err != nil {
			p.addf(path, "%v", err)
		}
	}
	check("serverKey", s.ServerKey)
	check("releaseKey", s.ReleaseKey)
	if len(s.ServerKey) > 0 && string(s.ServerKey) == string(s.ReleaseKey) {
		p.addf("releaseKey", "want another key than serverKey, found the same")
	}
	p.ca("attestd.ca", s.Attestd.CA)
	if n := s.Attestd.Attempts; n < 0 || n > 1000 {
		p.addf("attestd.attempts", "want 1 to 1000, or 0 for the default, found %d", n)
	}
	if t := s.Attestd.JoinToken; t != "" && !joinToken.MatchString(t) {
		p.addf("attestd.joinToken", `want what "sealboot device token" prints, found another text of %d bytes`, len(t))
	}
	u := p.httpURL("attestd.url", s.Attestd.URL)
	if u == nil {
		return
	}
	if u.Scheme == "http" && !s.Lab {
		p.addf("attestd.url", `want https, found http; it is for the lab: want "lab": true with it`)
	}
	if u.Scheme == "https" && s.Attestd.CA == "" {
		p.addf("attestd.ca", "want the site's CA, since the url is https; found none")
	}
}

func (s *Site) checkSource(p *problems, at string, src *Source) {
	allowed := map[string][]string{
		SourceOCI:   {"ref", "mirrors", "ca", "plainHTTP", "auth", "keys", "threshold", "identity", "platform", "disk"},
		SourceTUF:   {"root", "metadataURL", "targetsURL", "target", "mirrors", "ca", "auth", "platform", "plainHTTP", "disk"},
		SourceMedia: {"ref", "keys", "threshold", "identity", "platform", "disk", "root", "target"},
	}
	fields, ok := allowed[src.Type]
	if !ok {
		p.oneOf(at+".type", src.Type, SourceOCI, SourceTUF, SourceMedia)
		return
	}
	for _, name := range src.set() {
		if !slices.Contains(fields, name) {
			p.addf(at+"."+name, "want none in a source of type %q", src.Type)
		}
	}
	p.ca(at+".ca", src.CA)
	s.checkAuth(p, at, src)
	s.checkKeys(p, at, src)
	if src.Platform != "" {
		if _, err := platform.Parse(src.Platform); err != nil {
			p.addf(at+".platform", "%v", err)
		}
	}
	if src.Disk != "" && !disk.MatchString(src.Disk) {
		p.addf(at+".disk", "want a device such as /dev/vda, PARTLABEL=name or SERIAL=number, found %q", shorten(src.Disk))
	}
	switch src.Type {
	case SourceOCI:
		s.checkOCI(p, at, src)
	case SourceTUF:
		checkTUF(p, at, src)
	case SourceMedia:
		s.checkMedia(p, at, src)
	}
}

var (
	device     = regexp.MustCompile(`^/dev/[A-Za-z0-9]+$`)
	disk       = regexp.MustCompile(`^(/dev/[A-Za-z0-9]+|(PARTLABEL|SERIAL)=[A-Za-z0-9][A-Za-z0-9._ -]{0,71})$`)
	registry   = regexp.MustCompile(`^[A-Za-z0-9.-]+(:[0-9]{1,5})?$`)
	ref        = regexp.MustCompile(`^[A-Za-z0-9.-]+(:[0-9]{1,5})?/[a-z0-9][a-z0-9._/-]*(:[A-Za-z0-9_][A-Za-z0-9._-]{0,127})?(@sha256:[0-9a-f]{64})?$`)
	mirror     = regexp.MustCompile(`^[A-Za-z0-9.-]+(:[0-9]{1,5})?/[a-z0-9][a-z0-9._/-]*$`)
	mediaRef   = regexp.MustCompile(`^([A-Za-z0-9_][A-Za-z0-9._/:-]{0,255}|sha256:[0-9a-f]{64})$`)
	pinnedOnly = regexp.MustCompile(`(^|@)sha256:[0-9a-f]{64}$`)
)

// set lists the fields of src, other than its type, that hold something.
func (src *Source) set() []string {
	fields := []struct {
		name string
		set  bool
	}{
		{"ref", src.Ref != ""},
		{"mirrors", len(src.Mirrors) > 0},
		{"ca", src.CA != ""},
		{"plainHTTP", src.PlainHTTP},
		{"auth", src.Auth != nil},
		{"keys", len(src.Keys) > 0},
		{"threshold", src.Threshold != 0},
		{"identity", src.Identity != ""},
		{"platform", src.Platform != ""},
		{"disk", src.Disk != ""},
		{"root", len(src.Root) > 0},
		{"metadataURL", src.MetadataURL != ""},
		{"targetsURL", src.TargetsURL != ""},
		{"target", src.Target != ""},
	}
	var names []string
	for _, f := range fields {
		if f.set {
			names = append(names, f.name)
		}
	}
	return names
}

func (s *Site) checkAuth(p *problems, at string, src *Source) {
	a := src.Auth
	if a == nil {
		return
	}
	none := a.Token == "" && a.Username == "" && a.Cert == ""
	if none || a.Token != "" && a.Username != "" || (a.Username == "") != (a.Password == "") || (a.Cert == "") != (a.Key == "") {
		p.addf(at+".auth", "want username and password, or token, or cert and key, or these together with one of the others")
	} else if a.Cert != "" {
		if _, err := tls.X509KeyPair([]byte(a.Cert), []byte(a.Key)); err != nil {
			p.addf(at+".auth.cert", "want a certificate in PEM that belongs to key, found something else")
		}
	}
	switch {
	case a.Registry != "" && !registry.MatchString(a.Registry):
		p.addf(at+".auth.registry", "want a host such as registry.example or registry.example:5000, found %q", shorten(a.Registry))
	case a.Registry == "" && src.Type == SourceTUF:
		p.addf(at+".auth.registry", "want the registry that the credentials are for, since targets may name any; found none")
	}
	if src.PlainHTTP && !s.Lab {
		p.addf(at+".auth", `want none with plainHTTP, which would show it to everybody, unless "lab" is true`)
	}
}

func (s *Site) checkKeys(p *problems, at string, src *Source) {
	seen := make(map[string]bool)
	for i, der := range src.Keys {
		if _, err := x509.ParsePKIXPublicKey(der); err != nil {
			p.addf(index(at+".keys", i), "want a public key (PKIX), found something else")
		}
		if seen[string(der)] {
			p.addf(index(at+".keys", i), "want each key once, found it again")
		}
		seen[string(der)] = true
	}
	switch {
	case len(src.Keys) == 0 && src.Threshold != 0:
		p.addf(at+".threshold", "want it together with keys, found no keys")
	case src.Threshold < 0 || src.Threshold > len(src.Keys):
		p.addf(at+".threshold", "want 1 to %d, the number of keys, found %d", len(src.Keys), src.Threshold)
	}
	switch {
	case src.Identity == "":
	case len(src.Keys) == 0:
		p.addf(at+".identity", "want it with keys, whose signatures name it; found no keys")
	case !IsRepository(src.Identity):
		p.addf(at+".identity", "want registry/repository without a tag, found %q", shorten(src.Identity))
	}
}

// IsRepository tells whether a name is that of a repository in a registry, as
// Identity and Mirrors have it: registry/repository, without a tag.
func IsRepository(name string) bool { return mirror.MatchString(name) }

// Vouched tells whether the site config itself says which images of this source
// are good, by keys, a digest or the root of a TUF repository. Otherwise attestd
// alone judges them, once they are measured.
func (src *Source) Vouched() bool {
	return len(src.Keys) > 0 || pinnedOnly.MatchString(src.Ref) || len(src.Root) > 0
}

// checkJudged refuses an image that nothing would judge: neither a signature,
// nor its digest, nor an attestation server. A server comes too late for what is
// written to a disk: anyone who answers for the registry could wipe it.
func (s *Site) checkJudged(p *problems, at string, src *Source) {
	if src.Vouched() {
		return
	}
	switch {
	case src.Disk != "":
		p.addf(at+".disk", "want keys or a ref with a digest with it, found neither: the disk is overwritten before attestd judges the image")
	case s.Attestd == nil:
		p.addf(at+".keys", "want a key, or a ref with a digest, or an attestd; or nothing would judge the image")
	}
}

func (s *Site) checkOCI(p *problems, at string, src *Source) {
	if !ref.MatchString(src.Ref) {
		p.addf(at+".ref", "want registry/repository:tag or registry/repository@sha256:..., found %q", shorten(src.Ref))
	}
	for i, m := range src.Mirrors {
		if !IsRepository(m) {
			p.addf(index(at+".mirrors", i), "want registry/repository without a tag, found %q", shorten(m))
		}
	}
	if !src.PlainHTTP && src.CA == "" {
		p.addf(at+".ca", "want the registry's CA, since a loader knows no public ones; found none")
	}
	s.checkJudged(p, at, src)
}

func checkTUF(p *problems, at string, src *Source) {
	if len(src.Root) == 0 {
		p.addf(at+".root", "want the repository's root.json in base64, found none")
	}
	if src.Target == "" {
		p.addf(at+".target", "want the name of a target, found none")
	}
	// TUF needs no TLS, so both schemes will do.
	p.httpURL(at+".metadataURL", src.MetadataURL)
	if src.TargetsURL != "" {
		p.httpURL(at+".targetsURL", src.TargetsURL)
	}
	for i, m := range src.Mirrors {
		p.httpURL(index(at+".mirrors", i), m)
	}
}

func (s *Site) checkMedia(p *problems, at string, src *Source) {
	if (src.Target != "") != (len(src.Root) > 0) {
		p.addf(at+".root", "want root and target together: a bundle is a TUF repository")
	}
	if src.Target != "" {
		if src.Ref != "" || len(src.Keys) > 0 {
			p.addf(at+".ref", "want either ref and keys, for an OCI layout, or root and target, for a TUF bundle")
		}
		return
	}
	if src.Ref != "" && !mediaRef.MatchString(src.Ref) {
		p.addf(at+".ref", "want a tag or sha256:..., found %q", shorten(src.Ref))
	}
	s.checkJudged(p, at, src)
}

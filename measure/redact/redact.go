// Package redact keeps the secrets in URLs out of what people read.
//
// A registry or a bucket may redirect to a URL that is signed: its query alone
// gives access to the content. The errors of net/http, and of libraries on top of
// it, quote the whole URL, and an error goes to the console, to a log and to
// attestd. So code that does requests passes its errors through [Error] at once. It
// is here because boot and attest both use it.
package redact

import (
	"regexp"
)

// Error returns err with a text that has no secrets of URLs. What it wraps is
// unchanged, for errors.Is and errors.As.
func Error(err error) error {
	if err == nil {
		return nil
	}
	said := err.Error()
	text := Text(said)
	if text == said {
		return err
	}
	return &redacted{text, err}
}

type redacted struct {
	text string
	err  error
}

func (r *redacted) Error() string { return r.text }
func (r *redacted) Unwrap() error { return r.err }

var (
	// In quotes a query goes on to the closing one, since that of a malformed URL
	// may have spaces.
	quoted = regexp.MustCompile(`("[^"\s?]*\?)(?:[^"\\]|\\.)+"`)
	bare   = regexp.MustCompile(`([^\s"?]\?)[^\s"]+`)
	user   = regexp.MustCompile(`(//)[^\s"/]+@`)
)

// Text returns s without the queries, user names and passwords of the URLs in it,
// with "..." in their place.
func Text(s string) string {
	s = quoted.ReplaceAllString(s, `${1}..."`)
	s = bare.ReplaceAllString(s, `${1}...`)
	return user.ReplaceAllString(s, `${1}...@`)
}

package loader

import (
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"net/http"
	"syscall"
)

// Hint adds to the error of a registry or repository what to do about it: a
// flag of the command, the one that names a CA or the one that does without TLS,
// or a server to look at.
func Hint(err error, ca, plainHTTP string) error {
	if _, ok := errors.AsType[x509.UnknownAuthorityError](err); ok {
		return fmt.Errorf("%w; name its CA with %s FILE", err, ca)
	}
	if _, ok := errors.AsType[tls.RecordHeaderError](err); ok || errors.Is(err, http.ErrSchemeMismatch) {
		return fmt.Errorf("%w; if it really has no TLS, say %s", err, plainHTTP)
	}
	if errors.Is(err, syscall.ECONNREFUSED) {
		return fmt.Errorf("%w; is the server running, and this its port?", err)
	}
	return err
}

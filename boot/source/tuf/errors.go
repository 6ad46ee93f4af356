package tuf

import (
	"errors"
	"fmt"
)

// Errors that callers tell apart. Those of a repository mean that another
// mirror may do better; none of them means that something was trusted.
var (
	// ErrNotFound: the repository does not have the file.
	ErrNotFound = errors.New("not found")
	// ErrForbidden: the repository refuses the file, as a bucket does for one
	// that does not exist.
	ErrForbidden = errors.New("forbidden")
	// ErrNoTarget: verified metadata says that there is no such target.
	ErrNoTarget = errors.New("no such target")
	// ErrMalformed: the file is not metadata of that role.
	ErrMalformed = errors.New("malformed metadata")
	// ErrTooLarge: the file is larger than its limit.
	ErrTooLarge = errors.New("too large")
	// ErrUnverified: the signatures, the version or the digest of the file are wrong.
	ErrUnverified = errors.New("not verified")
	// ErrExpired: the metadata was valid, but no longer is at the given time.
	ErrExpired = errors.New("expired")
	// ErrRollback: the metadata is older than the floor allows.
	ErrRollback = errors.New("older than the floor")
	// ErrMismatch: a target's bytes are not those that were signed.
	ErrMismatch = errors.New("size or digest differs")
	// ErrStore: the cache could not be written.
	ErrStore = errors.New("cannot write the metadata cache")
)

// unverified says why a role is not trusted.
func unverified(role string, err error) error {
	return fmt.Errorf("tuf: %s: %w: %w", role, ErrUnverified, err)
}

// guard turns a panic of f into an error. go-tuf's types and the parsers below
// them are fed hostile bytes, and a panic here would be a kernel panic of the device.
func guard(role string, f func() error) (err error) {
	defer func() {
		if r := recover(); r != nil {
			err = fmt.Errorf("tuf: %s: %w: the parser failed: %v", role, ErrMalformed, r)
		}
	}()
	return f()
}

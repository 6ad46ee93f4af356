// Package oci opens an operating system image in a registry: it resolves a
// reference to the manifest for this machine, lets a signature policy admit
// it, and hands out its blobs, verified.
//
// The identity of an image is the digest of its platform manifest, never that
// of an index. Everything that is read to get there is small and its size is
// checked before it is read; blobs come through [fetch], which resumes them.
//
// A source is a list of places with the same content. Resolving, admitting and
// verifying all happen inside the loop over them, so a place that is dead,
// malformed or serves what is not signed never hides the next one.
//
// The connection trusts what the caller says and nothing of the machine: the
// time for certificates, the authorities, the proxy and the credentials are
// options.
package oci

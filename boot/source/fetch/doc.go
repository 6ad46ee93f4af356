// Package fetch brings blobs of known digest and size over HTTP to memory,
// verified, over links that fail.
//
// It exists because no registry client resumes a download. It promises:
//
//   - a returned file is complete and its digest was checked over the very
//     bytes it holds, so a truncated or altered transfer is never a success;
//   - what arrived is kept: a cut connection, a restarted server, a dead
//     mirror cost the bytes in flight only, and (with a [Cache]) a power cut
//     at most 24 MiB of each blob;
//   - a transfer ends: each request is given up when it stalls, each mirror
//     after [Options.Attempts] failures without progress, everything when the
//     context ends;
//   - memory beyond the blobs themselves is a fixed number of small buffers; and
//     [Fetcher.Stream] holds a window of a blob instead of all of it.
//
// Mirrors are tried in order. Fetching and verifying happen inside that loop:
// a mirror that serves wrong bytes is set aside for that blob and the next one
// is asked; one that is slow gives way to one that may be much faster. Nothing a
// server says is believed: Content-Range and Content-Length are compared with
// what was asked for, and the digest decides.
//
// The hash is computed in order by a goroutine of its own, which reads back
// what the connections have written, so hashing overlaps with receiving and
// several ranges of one blob can arrive at once.
package fetch

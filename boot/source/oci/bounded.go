package oci

import (
	"bytes"
	"fmt"
	"io"
	"net/http"
	"strings"

	"oras.land/oras-go/v2/registry/remote"
)

// bounded is a client for a registry whose answers in JSON are within the
// limits of a manifest before oras decodes them. Oras bounds their bytes alone,
// and a page of referrers of 4 MiB took a GiB. Blobs pass as they are.
type bounded struct{ remote.Client }

func (b bounded) Do(req *http.Request) (*http.Response, error) {
	resp, err := b.Client.Do(req)
	if err != nil || req.Method != http.MethodGet || resp.StatusCode != http.StatusOK || strings.Contains(req.URL.Path, "/blobs/") {
		return resp, err
	}
	defer resp.Body.Close()
	raw, err := readAtMost(resp.Body, resp.ContentLength)
	if err == nil {
		if _, err = limits().Count(raw); err != nil {
			err = fmt.Errorf("%w: %w", ErrManifest, err)
		}
	}
	if err != nil {
		return nil, fmt.Errorf("answer of %s: %w", req.URL.Host, err)
	}
	resp.Body = io.NopCloser(bytes.NewReader(raw))
	return resp, nil
}

// readAtMost reads r to its end, which says that it has size bytes; -1 if it
// does not say. More than MaxManifest are refused.
func readAtMost(r io.Reader, size int64) ([]byte, error) {
	if size > MaxManifest {
		return nil, fmt.Errorf("%w: %d bytes, more than %d", ErrManifest, size, MaxManifest)
	}
	raw := bytes.NewBuffer(make([]byte, 0, max(size, 0)+bytes.MinRead))
	if _, err := raw.ReadFrom(io.LimitReader(r, MaxManifest+1)); err != nil {
		return nil, err
	}
	if raw.Len() > MaxManifest {
		return nil, fmt.Errorf("%w: more than %d bytes", ErrManifest, MaxManifest)
	}
	return raw.Bytes(), nil
}

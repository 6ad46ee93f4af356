package tuf

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"strings"

	"github.com/sealboot/sealboot/measure/redact"
)

// maxRedirects is how often one request may be sent elsewhere.
const maxRedirects = 5

// Web is a [Repository] on a web server or in a bucket.
type Web struct {
	// URL is the directory of the metadata.
	URL string
	// Client does the requests; nil is [http.DefaultTransport] without cookies.
	Client *http.Client
}

// String implements [Repository].
func (w Web) String() string { return w.URL }

// Metadata implements [Repository] with one GET.
func (w Web) Metadata(ctx context.Context, name string, max int64) ([]byte, error) {
	resp, err := get(ctx, w.Client, inDirectory(w.URL, name), "")
	if err != nil {
		return nil, err
	}
	defer resp.Body.Close()
	switch resp.StatusCode {
	case http.StatusOK:
	case http.StatusNotFound:
		return nil, fmt.Errorf("%w: HTTP status %d", ErrNotFound, resp.StatusCode)
	case http.StatusForbidden:
		return nil, fmt.Errorf("%w: HTTP status %d", ErrForbidden, resp.StatusCode)
	default:
		return nil, fmt.Errorf("HTTP status %d", resp.StatusCode)
	}
	if resp.ContentLength > max {
		return nil, fmt.Errorf("%w: %d bytes, at most %d", ErrTooLarge, resp.ContentLength, max)
	}
	data, err := io.ReadAll(io.LimitReader(resp.Body, max+1))
	if err != nil {
		return nil, fmt.Errorf("read the answer: %w", err)
	}
	if int64(len(data)) > max {
		return nil, fmt.Errorf("%w: more than %d bytes", ErrTooLarge, max)
	}
	return data, nil
}

// get does one GET. A transparent compression would change the bytes, so none
// is asked for.
func get(ctx context.Context, client *http.Client, url, byteRange string) (*http.Response, error) {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, url, nil)
	if err != nil {
		return nil, err
	}
	req.Header.Set("Accept-Encoding", "identity")
	if byteRange != "" {
		req.Header.Set("Range", byteRange)
	}
	resp, err := httpClient(client).Do(req)
	return resp, redact.Error(err) // a bucket may redirect to a signed URL
}

// httpClient returns a copy of c whose redirects are few and never leave TLS.
func httpClient(c *http.Client) *http.Client {
	var own http.Client
	if c != nil {
		own = *c
	}
	own.CheckRedirect = func(req *http.Request, via []*http.Request) error {
		if len(via) > maxRedirects {
			return fmt.Errorf("more than %d redirects", maxRedirects)
		}
		if via[0].URL.Scheme == "https" && req.URL.Scheme != "https" {
			return errors.New("redirected away from TLS")
		}
		return nil
	}
	return &own
}

// inDirectory is the URL of a file whose name is escaped already.
func inDirectory(directory, name string) string {
	return strings.TrimSuffix(directory, "/") + "/" + name
}

// targetURL is the URL of a target, whose path may have any characters.
func targetURL(directory, path string) string {
	u := url.URL{Path: path}
	return inDirectory(directory, strings.TrimPrefix(u.EscapedPath(), "/"))
}

package device

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"strings"
	"time"

	"github.com/sealboot/sealboot/attest/wire"
	"github.com/sealboot/sealboot/measure/redact"
)

// Deadlines of one request, from dialling to the last byte of the answer.
const (
	shortDeadline    = 20 * time.Second
	evidenceDeadline = 60 * time.Second // up to 4 MiB over a poor link, and a decision
)

// post sends one message and returns the body of a success. An answer is at most 16 KiB.
func (c *Client) post(ctx context.Context, path string, body []byte, deadline time.Duration) ([]byte, error) {
	ctx, cancel := context.WithTimeout(ctx, deadline)
	defer cancel()
	address := strings.TrimSuffix(c.URL, "/") + path
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, address, bytes.NewReader(body))
	if err != nil {
		return nil, fmt.Errorf("ask attestd at %s: %w", address, err)
	}
	req.Header.Set("Content-Type", wire.ContentType)
	client := *c.HTTP
	client.CheckRedirect = func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }
	resp, err := client.Do(req)
	if err != nil {
		if said, ok := errors.AsType[*url.Error](err); ok {
			err = said.Err // without the address once more
		}
		return nil, fmt.Errorf("ask attestd at %s: %w: %w", address, ErrUnreachable, redact.Error(err))
	}
	defer resp.Body.Close()
	answer, err := io.ReadAll(io.LimitReader(resp.Body, wire.MaxMessage+1))
	switch {
	case err != nil:
		return nil, fmt.Errorf("read attestd's answer from %s: %w: %w", address, ErrUnreachable, err)
	case len(answer) > wire.MaxMessage:
		return nil, fmt.Errorf("read attestd's answer from %s: %w: above %d bytes", address, ErrProtocol, wire.MaxMessage)
	case resp.StatusCode == http.StatusOK:
		return answer, nil
	}
	return nil, fmt.Errorf("ask attestd at %s: %w", address, failure(resp.Status, answer))
}

// failure turns an answer that is not a success into an error.
func failure(status string, answer []byte) error {
	var f wire.Failure
	if err := wire.Unmarshal(answer, &f); err != nil {
		return fmt.Errorf("%w: HTTP %s", ErrUnreachable, wire.Clean(status))
	}
	if f.Code == wire.CodeUnavailable {
		return fmt.Errorf("%w: HTTP %s: it could not decide", ErrUnreachable, wire.Clean(status))
	}
	return &Denied{Code: f.Code, Decision: f.Decision, Reasons: f.Reasons}
}

// open verifies an answer and decodes it, and tells a wrong signature from a wrong message.
func (c *Client) open(d wire.Domain, binding [32]byte, raw []byte, m wire.Message) error {
	err := wire.Open(c.ServerKey, d, binding, raw, m)
	if err == nil || errors.Is(err, ErrServerSignature) {
		return err
	}
	return fmt.Errorf("%w: %w", ErrProtocol, err)
}

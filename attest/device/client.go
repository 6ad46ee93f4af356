package device

import (
	"context"
	"crypto/ecdsa"
	"crypto/rand"
	"crypto/sha256"
	"fmt"
	"net/http"
	"strings"

	"github.com/sealboot/sealboot/attest/wire"
	"github.com/sealboot/sealboot/measure/tpm"
)

// Client speaks with one site's attestd. The keys come from the measured site config; HTTP brings the TLS roots and
// the clock. It is used by one goroutine at a time.
type Client struct {
	TPM        *tpm.TPM
	HTTP       *http.Client
	URL        string // of attestd, without a path
	Site       string
	ServerKey  *ecdsa.PublicKey // signs what attestd says
	ReleaseKey *ecdsa.PublicKey // signs what the TPM may do
	Loader     string           // our version, for people
	JoinToken  []byte           // nil unless the device still has to join

	saved  *savedEK
	orders uint64 // the last that Hello told of
}

// Hello asks for the signed time and version. The answer is authentic and made for this call; ErrUnreachable and
// ErrServerSignature tell apart silence and lies. The EK's hash, hex, is named if the caller knows it.
func (c *Client) Hello(ctx context.Context, ek string) (*wire.Hello, error) {
	nonce, err := newNonce()
	if err != nil {
		return nil, err
	}
	request, err := wire.Marshal(&wire.HelloRequest{Version: wire.Version, Site: c.Site, EK: ek, Nonce: nonce})
	if err != nil {
		return nil, err
	}
	answer, err := c.post(ctx, wire.PathHello, request, shortDeadline)
	if err != nil {
		return nil, fmt.Errorf("hello: %w", err)
	}
	var h wire.Hello
	if err := c.open(wire.DomainHello, wire.HashMessage(request), answer, &h); err != nil {
		return nil, fmt.Errorf("hello: %w", err)
	}
	if string(h.Nonce) != string(nonce) {
		return nil, fmt.Errorf("hello: %w: another nonce", ErrProtocol)
	}
	c.orders = h.Orders
	return &h, nil
}

// Report tells attestd about a failure. It is unsigned and best effort; the text is cut to one line.
func (c *Client) Report(ctx context.Context, ek, stage string, cause error) error {
	raw, err := wire.Marshal(&wire.Report{
		Version: wire.Version, Site: c.Site, EK: ek, Stage: stage, Reason: wire.Clean(strings.ReplaceAll(cause.Error(), "\n", "; ")), Loader: c.Loader,
	})
	if err != nil {
		return err
	}
	if _, err := c.post(ctx, wire.PathReport, raw, shortDeadline); err != nil {
		return fmt.Errorf("report failure: %w", err)
	}
	return nil
}

func newNonce() ([]byte, error) {
	nonce := make([]byte, sha256.Size)
	if _, err := rand.Read(nonce); err != nil {
		return nil, fmt.Errorf("make nonce: %w", err)
	}
	return nonce, nil
}

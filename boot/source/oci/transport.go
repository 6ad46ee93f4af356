package oci

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/url"
	"time"

	"oras.land/oras-go/v2/registry/remote/auth"
	"oras.land/oras-go/v2/registry/remote/credentials"

	"github.com/sealboot/sealboot/boot/base/transport"
	"github.com/sealboot/sealboot/measure/jsonlimit"
)

// Connection says how registries are reached. Its zero value is HTTPS with
// the system's authorities, no credentials and no proxy.
type Connection struct {
	PlainHTTP bool   // no TLS: contents are still verified, names of tags and credentials are not protected
	CA        []byte // PEM authorities, in place of the system's
	// Cert and Key are a client certificate and its key (PEM). They are shown to the
	// registry alone, not to where it redirects nor to a token service elsewhere.
	Cert, Key []byte

	// DockerConfig holds credentials in the form of Docker's config.json.
	// Credential helpers in it are not run.
	DockerConfig []byte
	// Credential is asked if DockerConfig is empty; nil is anonymous.
	Credential auth.CredentialFunc

	// Proxy says by which HTTP proxy a request goes; nil is none. It is asked for every request, since the network can be
	// made anew without the one that there was.
	Proxy func(*http.Request) (*url.URL, error)
	// Now is the time that certificates are judged by; nil is the system clock.
	Now func() time.Time
	// Dial replaces the TCP dialer.
	Dial func(ctx context.Context, network, addr string) (net.Conn, error)
}

// client builds an authenticated client for the registry at a host. It does no I/O.
func (c Connection) client(host string) (*auth.Client, error) {
	reach, err := c.roundTripper(host)
	if err != nil {
		return nil, err
	}
	credential := c.Credential
	if len(c.DockerConfig) > 0 {
		_, err := jsonlimit.Usual(len(c.DockerConfig)).Count(c.DockerConfig)
		if err != nil {
			return nil, fmt.Errorf("registry credentials: docker config.json: %w", err)
		}
		store, err := credentials.NewMemoryStoreFromDockerConfig(c.DockerConfig)
		if err != nil {
			// The decoder's error may quote the secret.
			return nil, errors.New("registry credentials: not a docker config.json")
		}
		credential = credentials.Credential(store)
	}
	return &auth.Client{
		Client:     &http.Client{Transport: reach, CheckRedirect: checkRedirect},
		Header:     http.Header{"User-Agent": {"sealboot"}},
		Credential: credential,
		Cache:      auth.NewCache(),
	}, nil
}

// roundTripper is a transport that shows the client certificate to host alone.
func (c Connection) roundTripper(host string) (http.RoundTripper, error) {
	anonymous, err := c.transport()
	if err != nil || len(c.Cert) == 0 && len(c.Key) == 0 {
		return anonymous, err
	}
	pair, err := tls.X509KeyPair(c.Cert, c.Key)
	if err != nil {
		return nil, fmt.Errorf("registry client certificate: %w", err)
	}
	certified, err := c.transport()
	if err != nil {
		return nil, err
	}
	certified.TLSClientConfig.Certificates = []tls.Certificate{pair}
	return &certifiedFor{host, certified, anonymous}, nil
}

// certifiedFor has one host see who the client is.
type certifiedFor struct {
	host                 string
	certified, anonymous *http.Transport
}

func (c *certifiedFor) RoundTrip(r *http.Request) (*http.Response, error) {
	if r.URL.Host == c.host {
		return c.certified.RoundTrip(r)
	}
	return c.anonymous.RoundTrip(r)
}

// CloseIdleConnections is what [http.Client] looks for.
func (c *certifiedFor) CloseIdleConnections() {
	c.certified.CloseIdleConnections()
	c.anonymous.CloseIdleConnections()
}

func (c Connection) transport() (*http.Transport, error) {
	t, err := transport.New(transport.Options{CA: c.CA, Now: c.Now, Dial: c.Dial, Proxy: c.Proxy})
	if err != nil {
		return nil, fmt.Errorf("registry CA: %w", err)
	}
	return t, nil
}

// checkRedirect follows as net/http does, but never from HTTPS to HTTP.
func checkRedirect(req *http.Request, via []*http.Request) error {
	if len(via) >= 10 {
		return errors.New("stopped after 10 redirects")
	}
	if via[0].URL.Scheme == "https" && req.URL.Scheme != "https" {
		return fmt.Errorf("refusing the redirect from https to %s", req.URL.Scheme)
	}
	return nil
}

package store

import (
	"context"
	"crypto/tls"
	"database/sql"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"strings"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
	"github.com/jackc/pgx/v5/stdlib"
)

// ErrLink says that others than the database could answer on the link to it.
var ErrLink = errors.New("the link to PostgreSQL is not authenticated")

// CheckDSN refuses a store whose link is not authenticated ([ErrLink]), or that cannot be read, without opening it.
func CheckDSN(dsn string) error {
	if !isPostgres(dsn) {
		return checkFile(dsn)
	}
	_, err := parsePostgres(dsn)
	return err
}

// checkFile refuses a mistyped URL, which would be the name of a new and empty store.
func checkFile(dsn string) error {
	if scheme, _, ok := strings.Cut(dsn, "://"); ok {
		return fmt.Errorf("the store's URL has the scheme %q: want postgres, or the name of a file", scheme)
	}
	return nil
}

func openPostgres(dsn string) (*sql.DB, error) {
	c, err := parsePostgres(dsn)
	if err != nil {
		return nil, err
	}
	return stdlib.OpenDB(*c), nil
}

// parsePostgres reads a URL, and with it the PG* variables and the service file that pgx lets it refer to, and makes
// sure that the database is what answers. What lies in the store decides who is let in: in the middle of the link, one
// could add devices and policy. pgx by itself tries TLS without looking at the certificate, and then plain text.
//
// The configuration is checked so that a mistake shows at the first start, and each connection as it is, since a name
// such as localhost may lead elsewhere later.
func parsePostgres(dsn string) (*pgx.ConnConfig, error) {
	c, err := pgx.ParseConfig(dsn)
	if err != nil {
		var failed *pgconn.ParseConfigError
		if errors.As(err, &failed) {
			failed.ConnString = "postgres://..." // it may hold a password, which pgx hides only where it finds it
		}
		return nil, fmt.Errorf("read the URL of the store: %w", err)
	}
	if _, ok := c.RuntimeParams["hostaddr"]; ok {
		return nil, errors.New("read the URL of the store: hostaddr has no effect here; give the address as the host")
	}
	ways := append([]*pgconn.FallbackConfig{{Host: c.Host, Port: c.Port, TLSConfig: c.TLSConfig}}, c.Fallbacks...)
	for _, w := range ways {
		if err := checkWay(w); err != nil {
			return nil, err
		}
	}
	c.AfterNetConnect = func(ctx context.Context, _ *pgconn.Config, conn net.Conn) (net.Conn, error) {
		return conn, checkConn(ctx, conn)
	}
	return c, nil
}

// checkWay checks one of the ways in which pgx would connect: each host is one, or two where it may do without TLS.
func checkWay(w *pgconn.FallbackConfig) error {
	if isLocal(w.Host) || w.TLSConfig != nil && !w.TLSConfig.InsecureSkipVerify {
		return nil
	}
	how := "in plain text"
	if w.TLSConfig != nil {
		how = "without checking whose certificate it is"
	}
	return fmt.Errorf("%w: it would speak with %q %s, so that anyone on the way to it could let devices in; "+
		"add sslmode=verify-full and sslrootcert=FILE to the URL, or use a Unix socket or a loopback address", ErrLink, w.Host, how)
}

// isLocal tells whether a host is a socket's directory or is meant to be this machine.
func isLocal(host string) bool {
	ip, err := netip.ParseAddr(host)
	return strings.HasPrefix(host, "/") || host == "localhost" || err == nil && ip.Unmap().IsLoopback()
}

// checkConn checks a connection before anything but the wish for TLS was said on it.
func checkConn(ctx context.Context, conn net.Conn) error {
	if t, ok := conn.(*tls.Conn); ok {
		if err := t.HandshakeContext(ctx); err != nil {
			return fmt.Errorf("TLS with PostgreSQL at %s: %w", conn.RemoteAddr(), err)
		}
		if len(t.ConnectionState().VerifiedChains) > 0 {
			return nil
		}
	}
	switch a := conn.RemoteAddr().(type) {
	case *net.UnixAddr:
		return nil
	case *net.TCPAddr:
		if a.IP.IsLoopback() {
			return nil
		}
	}
	return fmt.Errorf("%w: %s is not this machine, and showed no certificate that was checked; use sslmode=verify-full", ErrLink, conn.RemoteAddr())
}

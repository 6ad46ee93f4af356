package lab

import (
	"context"
	"fmt"
	"net"
	"net/http"
	"time"
)

// source is the entry of the site config for the way in which the lab boots.
func (l *Lab) source(ctx context.Context) (map[string]any, error) {
	switch l.o.Boot {
	case FromRegistry:
		return map[string]any{"type": "oci", "ref": l.imageRef(guestHost), "plainHTTP": true}, nil
	}
	return nil, fmt.Errorf("no way to boot from %q; there are %q, %q and %q", l.o.Boot, FromRegistry, FromTUF, FromMedia)
}

// fileServer is a plain web server for a directory, on loopback.
type fileServer struct {
	server *http.Server
	port   int
}

func serveFiles(dir string) (*fileServer, error) {
	listen, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return nil, err
	}
	f := &fileServer{
		server: &http.Server{Handler: http.FileServer(http.Dir(dir)), ReadHeaderTimeout: time.Minute},
		port:   listen.Addr().(*net.TCPAddr).Port,
	}
	go func() { _ = f.server.Serve(listen) }()
	return f, nil
}

func (f *fileServer) stop() { _ = f.server.Close() }

package server

import (
	"net"
	"net/netip"
	"sync"
)

// How many connections devices may have open, altogether and from one network; those [around] it have their share. Each costs memory and a descriptor
// before its client has said a word. A site behind one address that comes back after a power cut has room; who finds
// none comes again.
const (
	maxConns        = 16384
	maxNetworkConns = maxConns / 4
)

// limitedListener closes connections that are too many.
type limitedListener struct {
	net.Listener
	total, each int
	refused     func()

	mu   sync.Mutex
	open int
	by   map[netip.Prefix]int
}

func limitConns(l net.Listener, total, each int, refused func()) *limitedListener {
	return &limitedListener{Listener: l, total: total, each: each, refused: refused, by: map[netip.Prefix]int{}}
}

// Accept returns the next connection that there is room for.
func (l *limitedListener) Accept() (net.Conn, error) {
	for {
		c, err := l.Listener.Accept()
		if err != nil {
			return nil, err
		}
		from := network(c.RemoteAddr().String())
		if l.enter(from) {
			return &countedConn{Conn: c, leave: sync.OnceFunc(func() { l.leave(from) })}, nil
		}
		l.refused()
		_ = c.Close() // no one waits for it
	}
}

func (l *limitedListener) enter(from netip.Prefix) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	networks := around(from)
	room := l.open < l.total
	for i, p := range networks {
		room = room && float64(l.by[p]) < float64(l.each)*share(i)
	}
	if !room {
		return false
	}
	l.open++
	for _, p := range networks {
		l.by[p]++
	}
	return true
}

func (l *limitedListener) leave(from netip.Prefix) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.open--
	for _, p := range around(from) {
		if l.by[p]--; l.by[p] == 0 {
			delete(l.by, p)
		}
	}
}

// countedConn gives its place back when it is closed.
type countedConn struct {
	net.Conn
	leave func()
}

func (c *countedConn) Close() error {
	c.leave()
	return c.Conn.Close()
}

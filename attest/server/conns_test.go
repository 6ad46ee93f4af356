package server

import (
	"net"
	"testing"
)

// TestConnectionsAreBounded opens more connections than one network may have: the last is closed, and there is room
// again when another ends.
func TestConnectionsAreBounded(t *testing.T) {
	inner, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	refused := make(chan struct{}, 1)
	l := limitConns(inner, 100, 2, func() { refused <- struct{}{} })
	defer l.Close()
	accepted := make(chan net.Conn)
	go func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			accepted <- c
		}
	}()
	dial := func() net.Conn {
		t.Helper()
		c, err := net.Dial("tcp", inner.Addr().String())
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { c.Close() })
		return c
	}
	dial()
	first := <-accepted
	dial()
	<-accepted
	third := dial()
	<-refused
	if n, err := third.Read(make([]byte, 1)); err == nil {
		t.Errorf("the third connection said %d bytes", n)
	}
	first.Close()
	first.Close() // as servers do
	dial()
	<-accepted
	dial()
	<-refused
}

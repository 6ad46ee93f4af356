package netup

import "context"

// Renew asks for more time at once, as it is done when the time has come.
func (n *Network) Renew(ctx context.Context, anyServer bool) error {
	_, err := n.keeper.current().lease.renew(ctx, anyServer)
	return err
}

// Remembers reports whether n keeps the network before it.
func (n *Network) Remembers() bool { return n.keeper.o.Before != nil }

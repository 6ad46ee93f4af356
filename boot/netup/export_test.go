package netup

import "context"

// Renew asks for more time at once, as it is done when the time has come.
func (n *Network) Renew(ctx context.Context, anyServer bool) error {
	_, err := n.keeper.current().lease.renew(ctx, anyServer)
	return err
}

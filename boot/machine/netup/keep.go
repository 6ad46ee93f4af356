package netup

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"sync"
	"time"

	"github.com/sealboot/sealboot/measure/pause"
)

// watchEvery is how often the kernel is asked for what it made of advertisements.
const watchEvery = 2 * time.Second

// A keeper keeps what a port was given: it asks for more time, gives up what has
// ended, and asks anew. A download may well outlive a lease.
type keeper struct {
	port  *port
	o     Options
	dns   []netip.Addr // of the host config; nil: the lease's
	mtus  map[string]int
	hints *raHints

	suspect string // the server that led nowhere in the round before

	mu  sync.Mutex
	got *result // what the port has now

	cancel context.CancelFunc
	done   sync.WaitGroup
}

// keep starts a keeper, which goes on until stop.
func (k *keeper) keep(ctx context.Context) {
	// The boot's deadlines are those of bringing the network up.
	ctx, k.cancel = context.WithCancel(context.WithoutCancel(ctx))
	k.done.Go(func() {
		k.hints.listen(ctx, k.port.link.Attrs().Index)
		defer k.hints.close()
		for {
			r := k.current()
			err := k.hold(ctx, r)
			if ctx.Err() != nil {
				return
			}
			k.o.Report(fmt.Errorf("%s: the lease of %v by %s has ended: %w; asking anew", r.link, r.lease.addresses, r.method, err))
			if k.anew(ctx) != nil {
				return
			}
		}
	})
}

// stop ends the keeper. What the port has, it has as long as it is up.
func (k *keeper) stop() {
	k.cancel()
	k.done.Wait()
}

func (k *keeper) current() *result {
	k.mu.Lock()
	defer k.mu.Unlock()
	return k.got
}

func (k *keeper) hold(ctx context.Context, r *result) error {
	if r.lease.routed {
		return k.watch(ctx, r)
	}
	return hold(ctx, r.lease)
}

// watch returns when the kernel has no advertised address any more. It keeps the
// DNS servers up to date, whose times the kernel does not keep.
func (k *keeper) watch(ctx context.Context, r *result) error {
	dns := r.lease.dns
	for {
		if err := pause.For(ctx, watchEvery); err != nil {
			return err
		}
		l, err := k.port.advertised(k.hints)
		if err != nil {
			return err
		}
		if len(l.addresses) == 0 {
			return errors.New("no router advertises a prefix any more")
		}
		// The last servers are better than none.
		if len(l.dns) > 0 && !slices.Equal(l.dns, dns) {
			dns = l.dns
			k.resolve(dns)
		}
	}
}

// anew takes the address away and asks until there is one again, or ctx ends.
func (k *keeper) anew(ctx context.Context) error {
	for {
		r, err := k.ask(ctx)
		if err == nil {
			k.mu.Lock()
			k.got = r
			k.mu.Unlock()
			k.resolve(r.lease.dns)
			k.o.Report(fmt.Errorf("the network is there again: %v", r.network()))
			return nil
		}
		if err := pause.For(ctx, askAgain); err != nil {
			return err
		}
	}
}

func (k *keeper) ask(ctx context.Context) (*result, error) {
	if err := k.port.up(); err != nil {
		return nil, err
	}
	method, l, err := k.port.automatic(ctx, k.o.LeaseTimeout, k.hints)
	if err != nil {
		return nil, err
	}
	return &result{port: k.port, hints: k.hints, link: k.current().link, method: method, lease: l}, nil
}

func (k *keeper) resolve(dns []netip.Addr) {
	if k.dns != nil {
		return
	}
	if err := writeResolvConf(k.o.ResolvConf, dns); err != nil {
		k.o.Report(err)
	}
}

// shun are the servers to be heard last by the network that follows this one, and
// the one that is next if it leads nowhere again. A server has a second chance:
// more often than the network, it is a registry that was away for a moment. When
// all have had their turns, it begins again.
func (k *keeper) shun() (servers []string, suspect string) {
	server, before := k.current().lease.server, k.port.shun.servers
	switch {
	case server == "": // static
		return before, ""
	case server != k.suspect:
		return before, server
	case slices.Contains(before, server):
		return []string{server}, ""
	}
	return withServer(before, server), ""
}

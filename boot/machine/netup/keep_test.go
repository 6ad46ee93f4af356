package netup_test

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/insomniacslk/dhcp/dhcpv4"
	"github.com/insomniacslk/dhcp/dhcpv4/server4"
	"github.com/vishvananda/netlink"

	"github.com/sealboot/sealboot/boot/config"
	"github.com/sealboot/sealboot/boot/machine/netup"
)

// TestKept has something happen to a network that is up.
func TestKept(t *testing.T) {
	needsWorld(t)
	only := func(method string) string { return `{"interfaces":[{"name":"eth0","methods":["` + method + `"]}]}` }
	good := []string{"--dhcp-range=192.0.2.50,192.0.2.60,255.255.255.0,1h", "--dhcp-option=option:router,192.0.2.1", "--dhcp-option=option:dns-server,192.0.2.53"}
	v6 := []string{"--enable-ra", "--dhcp-range=2001:db8::50,2001:db8::50,64,1h"}
	ra := []string{"--enable-ra", "--dhcp-range=2001:db8::,ra-only,64,1h", "--dhcp-option=option6:dns-server,[2001:db8::53]"}
	rogue := []string{"--dhcp-range=198.51.100.50,198.51.100.60,255.255.255.0,1h", "--dhcp-option=option:router,198.51.100.9",
		"--dhcp-option=option:dns-server,198.51.100.9", "--dhcp-option=26,9000"}
	slow := append([]string{"--dhcp-reply-delay=2"}, good...)
	for _, c := range []struct {
		name  string
		world world
		check func(t *testing.T, o outcome)
	}{
		{"dhcp4 is renewed", world{Server: good, Host: only("dhcp4"), Then: "renew"}, quiet},
		{"dhcp6 is renewed", world{Server: v6, Host: only("dhcp6"), Then: "renew"}, quiet},
		{"a lease that is not renewed ends", world{Short: true, Host: only("dhcp4"), Then: "end"}, func(t *testing.T, o outcome) {
			if len(o.Reports) == 0 || !strings.Contains(o.Reports[0], "192.0.2.50/24") || !strings.Contains(o.Reports[0], "not renewed in time") {
				t.Errorf("reports %q", o.Reports)
			}
			if !strings.HasPrefix(o.Resolv, "nameserver 192.0.2.54\n") {
				t.Errorf("resolv.conf %q, want the second lease's server", o.Resolv)
			}
		}},
		{"the kernel ends an advertised address", world{Server: ra, Host: only("slaac"), Then: "unadvertised"}, func(t *testing.T, o outcome) {
			if len(o.Reports) == 0 || !strings.Contains(o.Reports[0], "no router advertises") {
				t.Errorf("reports %q", o.Reports)
			}
		}},
		{"a rogue server is quicker once", world{Server: slow, Rogue: rogue, Host: only("dhcp4"), Lease: time.Minute, Then: "anew"}, func(t *testing.T, o outcome) {
			if first := o.Network.Addresses[0].String(); !strings.HasPrefix(first, "198.51.100.") {
				t.Fatalf("%v came first: the test shows nothing", first)
			}
			if got := o.After.Addresses[0].String(); !strings.HasPrefix(got, "192.0.2.") || !strings.HasPrefix(o.Resolv, "nameserver 192.0.2.53\n") {
				t.Errorf("made anew: %v, %q; want the other server's", o.After, o.Resolv)
			}
		}},
		{"only the rogue server answers", world{Server: []string{"--dhcp-range=203.0.113.1,static"}, Rogue: rogue, Host: only("dhcp4"), Lease: 9 * time.Second, Then: "anew"}, func(t *testing.T, o outcome) {
			if got := o.After.Addresses[0].String(); !strings.HasPrefix(got, "198.51.100.") {
				t.Errorf("made anew: %v; want the one server there is", o.After)
			}
		}},
		// What the spare link was given would take what is for the server.
		{"without the host config", world{Server: good, Spare: true, Host: `{"interfaces":[{"name":"spare","addresses":["192.0.2.2/25"]}]}`, Then: "without"}, func(t *testing.T, o outcome) {
			if got := o.After.Addresses[0].String(); o.Network.Link != "spare" || o.After.Link != "eth0" || !strings.HasPrefix(got, "192.0.2.5") {
				t.Errorf("made anew: %v after %v; want a lease", o.After, o.Network)
			}
		}},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			o := run(t, c.world)
			if o.Network == nil {
				t.Fatal(o.Err)
			}
			c.check(t, o)
		})
	}
}

func quiet(t *testing.T, o outcome) {
	if o.Reports != nil {
		t.Errorf("reports %q, want none", o.Reports)
	}
}

// after is what happens to the network once it is up. It returns the network made
// anew, if it was.
func after(what string, n *netup.Network, host *config.Host, opts netup.Options, reports <-chan string) (*netup.Network, error) {
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	link, err := netlink.LinkByName(n.Link)
	if err != nil {
		return nil, err
	}
	first := n.Addresses[0].String()
	switch what {
	case "renew":
		return nil, errors.Join(n.Renew(ctx, false), n.Renew(ctx, true))
	case "end":
		return nil, waitAddresses(ctx, link, netlink.FAMILY_V4, "192.0.2.60/24")
	case "unadvertised":
		// Advertisements go on, so the address may be back before anybody looks.
		for len(reports) == 0 && ctx.Err() == nil {
			if err := dropAddress(link, first); err != nil && !errors.Is(err, syscall.EADDRNOTAVAIL) {
				return nil, err
			}
			time.Sleep(10 * time.Millisecond)
		}
		return nil, waitAddresses(ctx, link, netlink.FAMILY_V6, first)
	case "without":
		opts.Before = n
		anew, err := netup.Up(ctx, nil, opts)
		if err == nil && !reach("192.0.2.1") {
			err = errors.New("the server cannot be reached")
		}
		return anew, err
	case "anew":
		var anew *netup.Network
		for opts.Before = n; ; opts.Before = anew {
			if anew, err = netup.Up(ctx, host, opts); err != nil {
				return nil, err
			}
			if anew.Remembers() {
				return nil, errors.New("a network keeps the one before it, and so all of them")
			}
			if opts.Before != n {
				break
			}
			if got, want := anew.Addresses[0], n.Addresses[0]; got != want {
				return nil, fmt.Errorf("made anew once: %v, want %v, which has a second chance", got, want)
			}
		}
		if link, err = netlink.LinkByName(n.Link); err != nil {
			return nil, err
		}
		mtu := 1500
		if strings.HasPrefix(anew.Addresses[0].String(), "198.51.100.") {
			mtu = 9000
		}
		if link.Attrs().MTU != mtu {
			return nil, fmt.Errorf("MTU %d, want %d", link.Attrs().MTU, mtu)
		}
		return anew, waitAddresses(ctx, link, netlink.FAMILY_V4, anew.Addresses[0].String())
	}
	return nil, errors.New("unknown")
}

// addSpare adds a link with a carrier that is no card.
func addSpare() error {
	bridge := &netlink.Bridge{LinkAttrs: netlink.LinkAttrs{Name: "spare"}}
	veth := &netlink.Veth{LinkAttrs: netlink.LinkAttrs{Name: "spare-port"}, PeerName: "spare-end"}
	if err := errors.Join(netlink.LinkAdd(bridge), netlink.LinkAdd(veth)); err != nil {
		return fmt.Errorf("add a spare link: %w", err)
	}
	end, err := netlink.LinkByName(veth.PeerName)
	if err != nil {
		return err
	}
	return errors.Join(netlink.LinkSetMaster(veth, bridge), netlink.LinkSetUp(veth), netlink.LinkSetUp(end), netlink.LinkSetUp(bridge))
}

// waitAddresses waits until these and no others are on the link, link-local ones aside.
func waitAddresses(ctx context.Context, link netlink.Link, family int, want string) error {
	for {
		addrs, err := netlink.AddrList(link, family)
		if err != nil {
			return err
		}
		var got []string
		for _, a := range addrs {
			if a.IP.IsGlobalUnicast() {
				got = append(got, a.IPNet.String())
			}
		}
		if strings.Join(got, " ") == want {
			return nil
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("the link has %v, want %s", got, want)
		case <-time.After(50 * time.Millisecond):
		}
	}
}

func dropAddress(link netlink.Link, text string) error {
	a, err := netlink.ParseAddr(text)
	if err != nil {
		return err
	}
	return netlink.AddrDel(link, a)
}

// serveShort gives 192.0.2.50 for some seconds, does not renew it, and has
// 192.0.2.60 after that.
func serveShort(link netlink.Link) error {
	acks := 0
	handle := func(conn net.PacketConn, _ net.Addr, m *dhcpv4.DHCPv4) {
		if m.MessageType() == dhcpv4.MessageTypeRequest && !m.ClientIPAddr.IsUnspecified() {
			return // a renewal
		}
		kind, host := dhcpv4.MessageTypeOffer, byte(50)
		if acks > 0 {
			host = 60
		}
		if m.MessageType() == dhcpv4.MessageTypeRequest {
			kind = dhcpv4.MessageTypeAck
			acks++
		}
		reply, err := dhcpv4.NewReplyFromRequest(m, dhcpv4.WithMessageType(kind), dhcpv4.WithYourIP(net.IPv4(192, 0, 2, host)),
			dhcpv4.WithNetmask(net.CIDRMask(24, 32)), dhcpv4.WithServerIP(net.IPv4(192, 0, 2, 1)),
			dhcpv4.WithOption(dhcpv4.OptServerIdentifier(net.IPv4(192, 0, 2, 1))),
			dhcpv4.WithOption(dhcpv4.OptDNS(net.IPv4(192, 0, 2, 53+byte(min(acks, 2))/2))),
			dhcpv4.WithLeaseTime(map[byte]uint32{50: 6, 60: 3600}[host]))
		if err == nil {
			_, _ = conn.WriteTo(reply.ToBytes(), &net.UDPAddr{IP: net.IPv4bcast, Port: dhcpv4.ClientPort})
		}
	}
	s, err := server4.NewServer(link.Attrs().Name, &net.UDPAddr{Port: dhcpv4.ServerPort}, handle)
	if err != nil {
		return err
	}
	return s.Serve()
}

// switched puts a switch between the client and two servers, a good and a rogue one. The good one starts when the rogue
// one has given a lease, so that it is not the first on a machine that is busy.
func switched(w world, client netlink.Link) error {
	bridge := &netlink.Bridge{LinkAttrs: netlink.LinkAttrs{Name: "switch"}}
	if err := errors.Join(netlink.LinkAdd(bridge), netlink.LinkSetUp(bridge)); err != nil {
		return fmt.Errorf("add a bridge: %w", err)
	}
	old, err := netlink.ParseAddr(serverV4)
	if err != nil {
		return err
	}
	if err := errors.Join(netlink.AddrDel(client, old), netlink.LinkSetMaster(client, bridge)); err != nil {
		return fmt.Errorf("plug the client in: %w", err)
	}
	for name, addr := range map[string]string{"good": serverV4, "rogue": "198.51.100.1/24"} {
		veth := &netlink.Veth{LinkAttrs: netlink.LinkAttrs{Name: name}, PeerName: name + "-port"}
		if err := netlink.LinkAdd(veth); err != nil {
			return err
		}
		port, err := netlink.LinkByName(veth.PeerName)
		if err != nil {
			return err
		}
		a, err := netlink.ParseAddr(addr)
		if err != nil {
			return err
		}
		if err := errors.Join(netlink.LinkSetMaster(port, bridge), netlink.LinkSetUp(port), netlink.LinkSetUp(veth), netlink.AddrAdd(veth, a)); err != nil {
			return fmt.Errorf("plug %s in: %w", name, err)
		}
	}
	if err := serve("rogue", w.Rogue); err != nil {
		return err
	}
	go func() {
		for {
			if b, err := os.ReadFile("rogue-leases"); err == nil && len(b) > 0 {
				break
			}
			time.Sleep(50 * time.Millisecond)
		}
		if err := serve("good", w.Server); err != nil {
			fmt.Fprintln(os.Stderr, err)
		}
	}()
	return nil
}

// serve starts dnsmasq on the link name.
func serve(name string, more []string) error {
	args, err := dnsmasq(name+"-leases", append([]string{"--interface=" + name, "--bind-interfaces"}, more...))
	if err != nil {
		return err
	}
	cmd := exec.Command(args[0], args[1:]...)
	cmd.Stderr = os.Stderr
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	return cmd.Start()
}

package netup_test

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/netip"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/vishvananda/netlink"

	"github.com/sealboot/sealboot/boot/config"
	"github.com/sealboot/sealboot/boot/machine/netup"
)

// The tests run the package in one network namespace and dnsmasq in another,
// with a cable between them. A namespace belongs to a process, so the test
// binary starts itself once for each.
func TestMain(m *testing.M) {
	switch os.Getenv("NETUP_TEST_ROLE") {
	case "client":
		exit(client())
	case "server":
		exit(server())
	}
	os.Exit(m.Run())
}

func exit(err error) {
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	os.Exit(0)
}

// A world is what a test case sets up.
type world struct {
	Host    string   // host config
	Server  []string // arguments of dnsmasq; none: no one answers
	VLAN    int      // of the server
	Unplug  bool     // the server's end stays down
	NoLink  bool     // there is no interface at all
	Lease   time.Duration
	Carrier time.Duration

	Rogue []string // arguments of a second dnsmasq, on the same switch
	Short bool     // a server of our own, with leases that dnsmasq has not
	Spare bool     // the client has a second link, that leads nowhere
	Then  string   // what happens to the network that is up; see after
}

// An outcome is what the client reports.
type outcome struct {
	Network    *netup.Network
	Resolv     string
	Err        string
	NoAddress  bool
	NoCarrier  bool
	NoLink     bool
	NoVLAN     bool // this machine's kernel has none
	DownAfter  bool // Down took the link down
	Reached    bool // the server's address answers on the link
	ProxiedURL string

	After   *netup.Network // the network made anew
	Reports []string       // what became of the first one
}

const (
	serverV4 = "192.0.2.1/24"
	serverV6 = "2001:db8::1/64"
)

func TestUp(t *testing.T) {
	needsWorld(t)
	v4 := []string{"--dhcp-range=192.0.2.50,192.0.2.50,255.255.255.0,1h", "--dhcp-option=option:router,192.0.2.1", "--dhcp-option=option:dns-server,192.0.2.53"}
	ra := []string{"--enable-ra", "--dhcp-range=2001:db8::,ra-only,64,1h", "--dhcp-option=option6:dns-server,[2001:db8::53]"}
	v6 := []string{"--enable-ra", "--dhcp-range=2001:db8::50,2001:db8::50,64,1h", "--dhcp-option=option6:dns-server,[2001:db8::53]"}
	for _, c := range []struct {
		name  string
		world world
		check func(t *testing.T, o outcome)
	}{
		{"dhcp4", world{Server: v4}, func(t *testing.T, o outcome) {
			want := &netup.Network{Link: "eth0", Method: "dhcp4",
				Addresses: []netip.Prefix{netip.MustParsePrefix("192.0.2.50/24")},
				Gateways:  []netip.Addr{netip.MustParseAddr("192.0.2.1")},
				DNS:       []netip.Addr{netip.MustParseAddr("192.0.2.53")}}
			if d := cmp.Diff(want, o.Network, cmp.Comparer(samePrefix), cmp.Comparer(sameAddr), cmp.AllowUnexported(netup.Network{}), cmp.Comparer(func(a, b func(*url.URL) (*url.URL, error)) bool { return true })); d != "" {
				t.Errorf("network (-want +got):\n%s", d)
			}
			if !strings.HasPrefix(o.Resolv, "nameserver 192.0.2.53\n") || !o.Reached {
				t.Errorf("outcome %+v", o)
			}
		}},
		{"slaac", world{Server: ra, Host: `{"interfaces":[{"name":"eth0","methods":["slaac"]}]}`}, func(t *testing.T, o outcome) {
			if o.Network.Method != "slaac" || !strings.HasPrefix(o.Network.Addresses[0].String(), "2001:db8::") || !o.Reached {
				t.Errorf("outcome %+v", o)
			}
			if !strings.Contains(o.Resolv, "nameserver 2001:db8::53\n") {
				t.Errorf("the router's DNS server is not in %q", o.Resolv)
			}
		}},
		{"dhcp6", world{Server: v6, Host: `{"interfaces":[{"name":"eth0","methods":["dhcp6"]}]}`}, func(t *testing.T, o outcome) {
			if o.Network.Method != "dhcp6" || o.Network.Addresses[0].String() != "2001:db8::50/128" || !strings.Contains(o.Resolv, "2001:db8::53") {
				t.Errorf("outcome %+v", o)
			}
		}},
		{"race: only IPv6 answers", world{Server: ra}, func(t *testing.T, o outcome) {
			if o.Network.Method != "slaac" {
				t.Errorf("outcome %+v", o)
			}
		}},
		{"static, by MAC, with DNS and proxy", world{Server: v4, Host: `{"interfaces":[{"mac":"52:54:00:00:00:01","mtu":1400,"addresses":["192.0.2.77/24","2001:db8::77/64"],"gateways":["192.0.2.1"]}],"dns":["192.0.2.99"],"proxy":"http://192.0.2.1:3128","noProxy":["10.0.0.0/8"]}`}, func(t *testing.T, o outcome) {
			if o.Network.Method != "static" || len(o.Network.Addresses) != 2 || o.Resolv[:22] != "nameserver 192.0.2.99\n" || !o.Reached || o.ProxiedURL != "http://192.0.2.1:3128" {
				t.Errorf("outcome %+v", o)
			}
		}},
		{"VLAN", world{Server: v4, VLAN: 7, Host: `{"interfaces":[{"name":"eth0","vlan":7}]}`}, func(t *testing.T, o outcome) {
			if o.Network.Link != "eth0.7" || o.Network.Method != "dhcp4" || !o.Reached {
				t.Errorf("outcome %+v", o)
			}
		}},
		{"nobody answers", world{Lease: 4 * time.Second}, func(t *testing.T, o outcome) {
			if !o.NoAddress || !strings.Contains(o.Err, "eth0") || !strings.Contains(o.Err, "dhcp4: no server answered") || !strings.Contains(o.Err, "slaac: no router answered") {
				t.Errorf("outcome %+v; want ErrNoAddress with the link's name", o)
			}
		}},
		{"unplugged", world{Server: v4, Unplug: true, Carrier: 2 * time.Second}, func(t *testing.T, o outcome) {
			if !o.NoCarrier || !strings.Contains(o.Err, "cable") {
				t.Errorf("outcome %+v; want ErrNoCarrier", o)
			}
		}},
		{"static on the loopback", world{NoLink: true, Carrier: time.Second, Host: `{"interfaces":[{"name":"lo","addresses":["192.0.2.77/1"]}]}`}, func(t *testing.T, o outcome) {
			if !o.NoLink || o.Network != nil {
				t.Errorf("outcome %+v; want ErrNoLink, since such an address takes what is for others", o)
			}
		}},
		{"no interface", world{NoLink: true, Carrier: time.Second}, func(t *testing.T, o outcome) {
			if !o.NoLink || !strings.Contains(o.Err, "found lo") {
				t.Errorf("outcome %+v; want ErrNoLink", o)
			}
		}},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			o := run(t, c.world)
			if o.NoVLAN {
				t.Skip("this machine's kernel has no VLANs (CONFIG_VLAN_8021Q)")
			}
			if wantErr := o.Network == nil; wantErr != (o.Err != "") {
				t.Fatalf("outcome %+v", o)
			}
			if o.Network == nil && !o.NoAddress && !o.NoCarrier && !o.NoLink {
				t.Fatal(o.Err)
			}
			c.check(t, o)
			if o.Network != nil && !o.DownAfter {
				t.Error("Down left the link up")
			}
		})
	}
}

func samePrefix(a, b netip.Prefix) bool { return a == b }
func sameAddr(a, b netip.Addr) bool     { return a == b }

func skip(t *testing.T, why string) {
	t.Helper()
	if os.Getenv("SEALBOOT_TEST_ALL") == "1" {
		t.Fatal(why)
	}
	t.Skip(why)
}

func needsWorld(t *testing.T) {
	t.Helper()
	if os.Getuid() != 0 {
		skip(t, "needs root for network namespaces")
	}
	if _, err := exec.LookPath("dnsmasq"); err != nil {
		skip(t, "needs dnsmasq (Debian: dnsmasq-base)")
	}
}

// run starts the client in a network namespace of its own.
func run(t *testing.T, w world) outcome {
	t.Helper()
	text, err := json.Marshal(w)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 2*time.Minute)
	defer cancel()
	cmd := exec.CommandContext(ctx, os.Args[0])
	cmd.Dir = t.TempDir()
	cmd.Env = append(os.Environ(), "NETUP_TEST_ROLE=client", "NETUP_TEST_WORLD="+string(text))
	cmd.SysProcAttr = &syscall.SysProcAttr{Cloneflags: syscall.CLONE_NEWNET}
	cmd.Stderr = new(bytes.Buffer)
	out, err := cmd.Output()
	if errors.Is(err, syscall.EPERM) {
		skip(t, "network namespaces are not permitted here")
	}
	var o outcome
	if err := errors.Join(err, json.Unmarshal(out, &o)); err != nil {
		t.Fatalf("client: %v\n%v", err, cmd.Stderr)
	}
	return o
}

func client() error {
	var w world
	if err := json.Unmarshal([]byte(os.Getenv("NETUP_TEST_WORLD")), &w); err != nil {
		return err
	}
	if w.VLAN != 0 && !haveVLAN() {
		return json.NewEncoder(os.Stdout).Encode(outcome{NoVLAN: true, Err: "no VLANs"})
	}
	if !w.NoLink {
		stop, err := startServer()
		if err != nil {
			return err
		}
		defer stop()
	}
	if w.Spare {
		if err := addSpare(); err != nil {
			return err
		}
	}
	var host *config.Host
	if w.Host != "" {
		var err error
		if host, err = config.ParseHost([]byte(w.Host)); err != nil {
			return err
		}
	}
	o := outcome{}
	reports := make(chan string, 100)
	opts := netup.Options{LinkTimeout: max(w.Carrier, time.Second), LeaseTimeout: w.Lease, ResolvConf: "resolv.conf",
		Report: func(err error) { reports <- err.Error() }}
	if w.Carrier == 0 {
		opts.LinkTimeout = 0
	}
	n, err := netup.Up(context.Background(), host, opts)
	if err != nil {
		o.Err = err.Error()
		o.NoAddress, o.NoCarrier, o.NoLink = errors.Is(err, netup.ErrNoAddress), errors.Is(err, netup.ErrNoCarrier), errors.Is(err, netup.ErrNoLink)
	} else {
		o.Network = n
		o.Reached = reach("192.0.2.1") || reach("2001:db8::1")
		if r, err := http.NewRequest(http.MethodGet, "https://registry.example/", nil); err == nil {
			if u, err := n.Proxy(r); err == nil && u != nil {
				o.ProxiedURL = u.String()
			}
		}
		if w.Then != "" {
			if o.After, err = after(w.Then, n, host, opts, reports); err != nil {
				return fmt.Errorf("%s: %w", w.Then, err)
			}
		}
		o.After.Close()
		n.Close()
		close(reports)
		for r := range reports {
			o.Reports = append(o.Reports, r)
		}
		if err := netup.Down(); err != nil {
			return err
		}
		l, err := netlink.LinkByName(n.Link)
		o.DownAfter = err == nil && l.Attrs().Flags&net.FlagUp == 0
	}
	b, _ := os.ReadFile("resolv.conf")
	o.Resolv = string(b)
	return json.NewEncoder(os.Stdout).Encode(o)
}

func haveVLAN() bool {
	lo, err := netlink.LinkByName("lo")
	if err != nil {
		return false
	}
	v := &netlink.Vlan{LinkAttrs: netlink.LinkAttrs{Name: "probe", ParentIndex: lo.Attrs().Index}, VlanId: 1}
	err = netlink.LinkAdd(v)
	_ = netlink.LinkDel(v)
	return !errors.Is(err, syscall.EOPNOTSUPP)
}

// reach reports whether a host refuses a connection itself, which only a host
// that can be reached does.
func reach(host string) bool {
	c, err := net.DialTimeout("tcp", net.JoinHostPort(host, "9"), 5*time.Second)
	if err == nil {
		c.Close()
		return true
	}
	return errors.Is(err, syscall.ECONNREFUSED)
}

// startServer starts the server in a namespace of its own and plugs the cable.
func startServer() (stop func(), err error) {
	cmd := exec.Command(os.Args[0])
	cmd.Env = append(os.Environ(), "NETUP_TEST_ROLE=server")
	cmd.SysProcAttr = &syscall.SysProcAttr{Cloneflags: syscall.CLONE_NEWNET, Pdeathsig: syscall.SIGKILL}
	cmd.Stderr = os.Stderr
	out, err := cmd.StdoutPipe()
	if err != nil {
		return nil, err
	}
	if err := cmd.Start(); err != nil {
		return nil, err
	}
	stop = func() { _ = cmd.Process.Kill(); _ = cmd.Wait() }
	mac, _ := net.ParseMAC("52:54:00:00:00:01")
	veth := &netlink.Veth{LinkAttrs: netlink.LinkAttrs{Name: "eth0", HardwareAddr: mac}, PeerName: "peer"}
	if err := netlink.LinkAdd(veth); err != nil {
		return stop, fmt.Errorf("add veth: %w", err)
	}
	peer, err := netlink.LinkByName("peer")
	if err != nil {
		return stop, err
	}
	if err := netlink.LinkSetNsPid(peer, cmd.Process.Pid); err != nil {
		return stop, fmt.Errorf("move veth: %w", err)
	}
	_, err = bufio.NewReader(out).ReadString('\n')
	return stop, err
}

// server waits for its end of the cable, tells the client, and becomes dnsmasq.
func server() error {
	var w world
	if err := json.Unmarshal([]byte(os.Getenv("NETUP_TEST_WORLD")), &w); err != nil {
		return err
	}
	var link netlink.Link
	for {
		l, err := netlink.LinkByName("peer")
		if err == nil {
			link = l
			break
		}
		time.Sleep(10 * time.Millisecond)
	}
	if !w.Unplug {
		if err := serverLink(w, link); err != nil {
			return err
		}
	}
	if w.Rogue != nil {
		if err := switched(w, link); err != nil {
			return err
		}
		fmt.Println("ready")
		select {}
	}
	fmt.Println("ready")
	if w.Short {
		return serveShort(link)
	}
	if len(w.Server) == 0 || w.Unplug {
		select {}
	}
	args, err := dnsmasq("leases", w.Server)
	if err != nil {
		return err
	}
	return syscall.Exec(args[0], args, os.Environ())
}

// dnsmasq is a command line of it.
func dnsmasq(leases string, more []string) ([]string, error) {
	path, err := exec.LookPath("dnsmasq")
	if err != nil {
		return nil, err
	}
	dir, err := filepath.Abs(".")
	if err != nil {
		return nil, err
	}
	return append([]string{path, "--keep-in-foreground", "--no-ping", "--port=0", "--conf-file=/dev/null", "--user=root", "--group=root", "--dhcp-authoritative",
		"--dhcp-leasefile=" + filepath.Join(dir, leases), "--pid-file="}, more...), nil
}

func serverLink(w world, link netlink.Link) error {
	if err := netlink.LinkSetUp(link); err != nil {
		return err
	}
	if w.VLAN != 0 {
		v := &netlink.Vlan{LinkAttrs: netlink.LinkAttrs{Name: "vlan", ParentIndex: link.Attrs().Index}, VlanId: w.VLAN}
		if err := errors.Join(netlink.LinkAdd(v), netlink.LinkSetUp(v)); err != nil {
			return err
		}
		link = v
	}
	for _, s := range []string{serverV4, serverV6} {
		a, err := netlink.ParseAddr(s)
		if err != nil {
			return err
		}
		a.Flags = syscall.IFA_F_NODAD
		if err := netlink.AddrAdd(link, a); err != nil {
			return err
		}
	}
	return nil
}

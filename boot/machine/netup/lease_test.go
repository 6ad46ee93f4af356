package netup

import (
	"encoding/binary"
	"net"
	"net/netip"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/insomniacslk/dhcp/dhcpv4"
	"golang.org/x/sys/unix"
)

func TestFromDHCP4(t *testing.T) {
	for _, c := range []struct {
		name    string
		ip      string
		options []dhcpv4.Option
		want    string // address, or empty for refused
		gateway string
		dns     int
		mtu     int
	}{
		{"plain", "192.0.2.9", []dhcpv4.Option{dhcpv4.OptSubnetMask(net.CIDRMask(24, 32)), dhcpv4.OptRouter(net.IPv4(192, 0, 2, 1))}, "192.0.2.9/24", "192.0.2.1", 0, 0},
		{"no mask", "10.1.2.3", nil, "10.1.2.3/8", "", 0, 0},
		{"point to point", "192.0.2.9", []dhcpv4.Option{dhcpv4.OptSubnetMask(net.CIDRMask(32, 32)), dhcpv4.OptRouter(net.IPv4(10, 0, 0, 1))}, "192.0.2.9/32", "10.0.0.1", 0, 0},
		{"no address", "0.0.0.0", nil, "", "", 0, 0},
		{"multicast", "224.0.0.1", nil, "", "", 0, 0},
		{"loopback", "127.0.0.1", nil, "", "", 0, 0},
		{"odd mask", "192.0.2.9", []dhcpv4.Option{dhcpv4.OptSubnetMask(net.IPv4Mask(255, 0, 255, 0))}, "", "", 0, 0},
		{"many DNS, bad router, jumbo", "192.0.2.9", []dhcpv4.Option{
			dhcpv4.OptSubnetMask(net.CIDRMask(24, 32)), dhcpv4.OptRouter(net.IPv4zero),
			dhcpv4.OptDNS(net.IPv4zero, net.IPv4(1, 0, 0, 1), net.IPv4(1, 0, 0, 2), net.IPv4(1, 0, 0, 3), net.IPv4(1, 0, 0, 4)),
			dhcpv4.OptGeneric(dhcpv4.OptionInterfaceMTU, []byte{0x23, 0x28})}, "192.0.2.9/24", "", 3, 9000},
		{"tiny MTU is ignored", "192.0.2.9", []dhcpv4.Option{dhcpv4.OptSubnetMask(net.CIDRMask(24, 32)), dhcpv4.OptGeneric(dhcpv4.OptionInterfaceMTU, []byte{0, 68})}, "192.0.2.9/24", "", 0, 0},
	} {
		t.Run(c.name, func(t *testing.T) {
			ack := &dhcpv4.DHCPv4{YourIPAddr: net.ParseIP(c.ip), Options: dhcpv4.OptionsFromList(c.options...)}
			l, err := fromDHCP4(ack)
			if (err != nil) != (c.want == "") {
				t.Fatalf("fromDHCP4 = %+v, %v", l, err)
			}
			if err != nil {
				return
			}
			gateway := ""
			if len(l.gateways) > 0 {
				gateway = l.gateways[0].String()
			}
			if l.addresses[0].String() != c.want || gateway != c.gateway || len(l.dns) != c.dns || l.mtu != c.mtu {
				t.Errorf("fromDHCP4 = %+v", l)
			}
		})
	}
}

// option is a nduseroptmsg with an RDNSS option of two servers.
func option(link int32) []byte {
	b := make([]byte, ndUserOptHeader+40)
	b[0] = unix.AF_INET6
	binary.NativeEndian.PutUint16(b[2:], 40)
	binary.NativeEndian.PutUint32(b[4:], uint32(link))
	o := b[ndUserOptHeader:]
	o[0], o[1] = optRDNSS, 5
	binary.BigEndian.PutUint32(o[4:], 600)
	copy(o[8:], netip.MustParseAddr("2001:db8::1").AsSlice())
	copy(o[24:], netip.MustParseAddr("2001:db8::2").AsSlice())
	return b
}

func TestRDNSS(t *testing.T) {
	want := []string{"2001:db8::1", "2001:db8::2"}
	var got []string
	servers, lifetime := rdnss(option(3), 3)
	for _, a := range servers {
		got = append(got, a.String())
	}
	if lifetime != 10*time.Minute {
		t.Errorf("lifetime %v, want 10m", lifetime)
	}
	if d := cmp.Diff(want, got); d != "" {
		t.Errorf("rdnss (-want +got):\n%s", d)
	}
	if got, _ := rdnss(option(3), 4); got != nil {
		t.Errorf("another link's: %v", got)
	}
	expired := option(3)
	binary.BigEndian.PutUint32(expired[ndUserOptHeader+4:], 0)
	h := &raHints{dns: make(map[netip.Addr]time.Time)}
	h.add(rdnss(option(3), 3))
	if got := h.servers(); len(got) != 2 {
		t.Errorf("servers in use: %v", got)
	}
	h.add(rdnss(expired, 3))
	if got := h.servers(); got != nil {
		t.Errorf("lifetime 0: %v", got)
	}
}

func FuzzRDNSS(f *testing.F) {
	f.Add(option(1))
	f.Add(option(1)[:20])
	f.Fuzz(func(t *testing.T, b []byte) { rdnss(b, 1) })
}

package netup

import (
	"net"
	"testing"

	"github.com/insomniacslk/dhcp/dhcpv4"
	"github.com/insomniacslk/dhcp/dhcpv6"

	"github.com/sealboot/sealboot/measure/heaptest"
)

// offers are a DHCP server's answers in both versions.
func offers(t testing.TB) (v4, v6 []byte) {
	t.Helper()
	a, err := dhcpv4.New(dhcpv4.WithOption(dhcpv4.OptDNS(net.IPv4(192, 0, 2, 1))), dhcpv4.WithOption(dhcpv4.OptDomainName("example.org")))
	if err != nil {
		t.Fatal(err)
	}
	b, err := dhcpv6.NewMessage(dhcpv6.WithIANA(dhcpv6.OptIAAddress{IPv6Addr: net.ParseIP("2001:db8::1")}), dhcpv6.WithDNS(net.ParseIP("2001:db8::2")),
		dhcpv6.WithDomainSearchList("example.org"))
	if err != nil {
		t.Fatal(err)
	}
	return a.ToBytes(), b.ToBytes()
}

// TestHeap: anybody on the wire answers, with a datagram of at most 64 KiB.
func TestHeap(t *testing.T) {
	heaptest.Bound{Fixed: 64 << 10, PerByte: 16}.Mutated(t, "RDNSS", option(1), 1<<16, func(raw []byte) { rdnss(raw, 1) })
	v4, v6 := offers(t)
	heaptest.Bound{Fixed: 512 << 10, PerByte: 256}.Mutated(t, "DHCPv4", v4, 1<<16, func(raw []byte) { dhcpv4.FromBytes(raw) })
	heaptest.Bound{Fixed: 512 << 10, PerByte: 256}.Mutated(t, "DHCPv6", v6, 1<<16, func(raw []byte) { dhcpv6.FromBytes(raw) })
}

// FuzzDHCP: the parsers are a library's, the machine is ours.
func FuzzDHCP(f *testing.F) {
	v4, v6 := offers(f)
	f.Add(v4)
	f.Add(v6)
	f.Fuzz(func(t *testing.T, raw []byte) {
		if m, err := dhcpv4.FromBytes(raw); err == nil {
			_, _, _ = m.DNS(), m.Router(), server4(m)
		}
		if m, err := dhcpv6.FromBytes(raw); err == nil {
			_ = m.Summary()
		}
	})
}

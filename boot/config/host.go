package config

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"regexp"
	"slices"
	"strings"

	"github.com/sealboot/sealboot/measure/strict"
)

// A Host says how one machine reaches the network, and nothing else. The zero
// Host is the default: whichever Ethernet link first gets an address by DHCPv4,
// DHCPv6 or SLAAC.
type Host struct {
	// Version of this format; 0 is 1, the only one.
	Version int `json:"version,omitempty"`
	// Interfaces are all brought up at once; the first that is ready wins.
	// None means every Ethernet interface of the machine, automatically.
	Interfaces []Interface `json:"interfaces,omitempty"`
	// DNS servers, as addresses. They replace those of the lease.
	DNS []string `json:"dns,omitempty"`
	// Proxy for HTTP and HTTPS, as in http://proxy:3128.
	Proxy string `json:"proxy,omitempty"`
	// NoProxy lists host names, ".domain" suffixes, addresses and prefixes
	// that are reached directly.
	NoProxy []string `json:"noProxy,omitempty"`
}

// An Interface is one link and how it gets its addresses.
type Interface struct {
	// Name ("eth0") or MAC picks the link: want exactly one of them.
	Name string `json:"name,omitempty"`
	MAC  string `json:"mac,omitempty"`
	// VLAN puts everything on this VLAN (1 to 4094); 0 means untagged.
	VLAN int `json:"vlan,omitempty"`
	// MTU in bytes; 0 leaves it as it is.
	MTU int `json:"mtu,omitempty"`
	// Addresses with prefix lengths ("192.0.2.7/24") make the link static.
	Addresses []string `json:"addresses,omitempty"`
	// Gateways are the default routes of a static link, at most one each
	// for IPv4 and IPv6.
	Gateways []string `json:"gateways,omitempty"`
	// Methods limits how an address is got when Addresses is empty: any of
	// dhcp4, dhcp6, slaac; none means all, at once.
	Methods []string `json:"methods,omitempty"`
}

// The methods of an automatic interface.
const (
	DHCP4 = "dhcp4"
	DHCP6 = "dhcp6"
	SLAAC = "slaac"
)

// ParseHost reads and checks a host config. All errors are [FieldError]s,
// joined.
func ParseHost(b []byte) (*Host, error) {
	if len(b) > MaxHostSize {
		return nil, fmt.Errorf("host config: want at most %d bytes, found %d", MaxHostSize, len(b))
	}
	h := new(Host)
	if err := strict.CheckVersion(b, formatVersion); err != nil {
		return nil, fmt.Errorf("host config: %w", err)
	}
	if err := decodeStrict(b, h); err != nil {
		return nil, fmt.Errorf("host config: %w", err)
	}
	if err := h.check(); err != nil {
		return nil, fmt.Errorf("host config: %w", err)
	}
	return h, nil
}

func (h *Host) check() error {
	var p problems
	used := make(map[string]string)
	for i := range h.Interfaces {
		n, at := &h.Interfaces[i], index("interfaces", i)
		n.check(&p, at)
		key := fmt.Sprintf("%s%s.%d", n.Name, strings.ToLower(n.MAC), n.VLAN)
		if other, ok := used[key]; ok {
			p.addf(at, "want each interface once, found the one of %s again", other)
		}
		used[key] = at
	}
	for i, s := range h.DNS {
		if _, err := netip.ParseAddr(s); err != nil {
			p.addf(index("dns", i), "want an IP address, found %q", shorten(s))
		}
	}
	if h.Proxy != "" {
		if u := p.httpURL("proxy", h.Proxy); u != nil && strings.Trim(u.Path, "/") != "" {
			p.addf("proxy", "want a URL without a path, found %q", shorten(h.Proxy))
		}
	}
	if h.Proxy == "" && len(h.NoProxy) > 0 {
		p.addf("noProxy", "want it together with proxy, found no proxy")
	}
	for i, s := range h.NoProxy {
		if !noProxy.MatchString(s) {
			p.addf(index("noProxy", i), "want a host, .domain, address or prefix, found %q", shorten(s))
		}
	}
	return errors.Join(p...)
}

var (
	linkName = regexp.MustCompile(`^[A-Za-z0-9_.-]{1,15}$`)
	noProxy  = regexp.MustCompile(`^[A-Za-z0-9.:_/-]{1,253}$`)
)

func (n *Interface) check(p *problems, at string) {
	if (n.Name == "") == (n.MAC == "") {
		p.addf(at, "want either name or mac")
	}
	if n.Name != "" && (!linkName.MatchString(n.Name) || n.Name == "." || n.Name == "..") {
		p.addf(at+".name", "want an interface such as eth0, found %q", shorten(n.Name))
	}
	if n.MAC != "" {
		if m, err := net.ParseMAC(n.MAC); err != nil || len(m) != 6 {
			p.addf(at+".mac", "want an Ethernet address such as 52:54:00:12:34:56, found %q", shorten(n.MAC))
		}
	}
	if n.VLAN < 0 || n.VLAN > 4094 {
		p.addf(at+".vlan", "want 1 to 4094, found %d", n.VLAN)
	}
	if n.MTU != 0 && (n.MTU < 1280 || n.MTU > 65535) {
		p.addf(at+".mtu", "want 1280 to 65535, found %d", n.MTU)
	}
	n.checkAddresses(p, at)
	for i, m := range n.Methods {
		p.oneOf(index(at+".methods", i), m, DHCP4, DHCP6, SLAAC)
		if slices.Index(n.Methods, m) != i {
			p.addf(index(at+".methods", i), "want each method once, found %q again", shorten(m))
		}
	}
	if len(n.Addresses) > 0 && len(n.Methods) > 0 {
		p.addf(at+".methods", "want none with addresses: a link is static or automatic")
	}
}

func (n *Interface) checkAddresses(p *problems, at string) {
	for i, s := range n.Addresses {
		a, err := netip.ParsePrefix(s)
		if err != nil || !usable(a.Addr()) {
			p.addf(index(at+".addresses", i), "want an address with its prefix length such as 192.0.2.7/24, found %q", shorten(s))
		}
	}
	if len(n.Gateways) > 0 && len(n.Addresses) == 0 {
		p.addf(at+".gateways", "want them together with addresses, found no addresses")
	}
	families := make(map[bool]bool)
	for i, s := range n.Gateways {
		g, err := netip.ParseAddr(s)
		if err != nil || !usable(g) {
			p.addf(index(at+".gateways", i), "want an IP address, found %q", shorten(s))
			continue
		}
		if families[g.Is4()] {
			p.addf(index(at+".gateways", i), "want at most one for IPv4 and one for IPv6, found another")
		}
		families[g.Is4()] = true
	}
}

func usable(a netip.Addr) bool {
	return !a.IsUnspecified() && !a.IsMulticast() && !a.IsLoopback() && !a.Is4In6() && a.Zone() == ""
}

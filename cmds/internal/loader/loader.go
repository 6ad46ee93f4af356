// Package loader wires boot/flow to a real machine: its TPM, its network, its
// kernel, and the attestd and the sources of a site. netboot, ociboot and
// tufboot differ in what they put into it and in what they do with the outcome.
package loader

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/url"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/sealboot/sealboot/boot/base/transport"
	"github.com/sealboot/sealboot/boot/config"
	"github.com/sealboot/sealboot/boot/flow"
	"github.com/sealboot/sealboot/boot/machine/clock"
	"github.com/sealboot/sealboot/boot/machine/console"
	"github.com/sealboot/sealboot/boot/machine/netup"
	"github.com/sealboot/sealboot/boot/source/fetch"
	"github.com/sealboot/sealboot/boot/source/tuf"
	"github.com/sealboot/sealboot/boot/source/volume"
	"github.com/sealboot/sealboot/measure/event"
)

// Options say what machine it is. Site, SiteRaw and Console are needed.
type Options struct {
	Site    *config.Site
	SiteRaw []byte // as read: this is measured
	Console *console.Console
	Version string // of the loader, for people

	// TPM is its address; empty means /dev/tpmrm0.
	TPM string
	// NoNetwork says that the network is up and must be left alone.
	NoNetwork bool
	// NoTPM boots a machine without one: nothing is measured, and nothing can
	// be released.
	NoTPM bool
	// Cache is a directory for downloads and TUF metadata; empty means the volume
	// labelled SB-CACHE, if the machine has one.
	Cache string
	// Layout is a directory with OCI layouts or TUF bundles; empty means the
	// volume labelled SB-MEDIA.
	Layout string
	// DockerConfig holds credentials for registries, as Docker keeps them.
	DockerConfig []byte
	// Kexec gives an image to the kernel; nil means kexec_file_load.
	Kexec KexecFunc
	// FirmwareLog reads the platform firmware's event log; nil means
	// securityfs.
	FirmwareLog func(ctx context.Context) ([]byte, error)
}

// A Machine is everything that a boot needs of one.
type Machine struct {
	o       Options
	clock   *clock.Clock
	tpm     *tpmDevice
	up      atomic.Pointer[netup.Network] // nil as long as there is none of ours
	volumes volume.System
	floor   *nvFloor
	dry     bool // nothing may be changed

	rounds int // in which the network was made

	cacheOnce sync.Once
	cacheRoot string       // where SB-CACHE is mounted; empty without it
	cache     *fetch.Cache // of downloads; nil before it is needed
	store     tuf.Store    // of metadata; nil before it is needed

	closers []func() error // called last to first
}

// New wires a machine. It opens nothing: what is not there fails in the boot,
// where failures are handled.
func New(o Options) (*Machine, error) {
	if o.TPM == "" {
		o.TPM = "/dev/tpmrm0"
	}
	built, err := o.Site.Built()
	if err != nil {
		return nil, err
	}
	m := &Machine{o: o, cacheRoot: o.Cache}
	if o.Cache != "" {
		m.cacheOnce.Do(func() {}) // there is one already
	}
	m.clock = clock.New(clock.Options{Policy: clock.Policy(o.Site.Clock), Built: built, RTC: rtc()})
	m.tpm = &tpmDevice{addr: o.TPM, imagePCR: o.Site.PCRs.Image, clock: m.clock, console: o.Console, readLog: o.FirmwareLog}
	m.floor = &nvFloor{tpm: m.tpm, clock: m.clock, required: o.Site.Floor == config.FloorRequire}
	return m, nil
}

// rtc is the machine's real-time clock, which the kernel has read by now. A
// kernel that found none begins in 1970.
func rtc() time.Time {
	if now := time.Now(); now.Year() > 1970 {
		return now
	}
	return time.Time{}
}

// Close drops what the machine has opened.
func (m *Machine) Close() error {
	m.up.Load().Close()
	var errs []error
	for _, c := range slices.Backward(m.closers) {
		errs = append(errs, c())
	}
	return errors.Join(append(errs, m.tpm.close())...)
}

// judgedClock says so when the clock turns out to be wrong.
type judgedClock struct {
	*clock.Clock
	console *console.Console
}

func (c judgedClock) Signed(t time.Time) error {
	before := c.State().Source
	err := c.Clock.Signed(t)
	if ahead := c.Ahead(); ahead > time.Minute {
		by := ahead.Round(time.Minute).String()
		if days := int(ahead.Hours() / 24); days > 1 {
			by = fmt.Sprintf("%d days", days)
		}
		c.console.Warn(fmt.Errorf("the clock (%s) was %s ahead of the signed time and was set back", before, by))
	}
	return err
}

// Boot is one boot of the machine as its site config says.
func (m *Machine) Boot() (*flow.Boot, error) {
	site := m.o.Site
	b := &flow.Boot{
		Network:      network{m},
		Clock:        judgedClock{m.clock, m.o.Console},
		Measurer:     m.tpm,
		Floor:        m.floor,
		Reporter:     m.o.Console,
		SiteConfig:   flow.FileRecord(event.TypeSiteConfig, m.o.SiteRaw),
		PCRImage:     site.PCRs.Image,
		PCRAuthority: site.PCRs.Authority,
		Rounds:       site.Rounds,
		End:          flow.End(site.End),
	}
	if !m.o.NoNetwork {
		b.Host = m.hostConfig
	}
	if m.o.NoTPM {
		b.Measurer, b.Floor = noTPM{}, &weakFloor{m: m}
	}
	if site.Attestd != nil && !m.o.NoTPM {
		a, key, err := m.attester()
		if err != nil {
			return nil, err
		}
		b.Attester, b.ReleaseKey, b.Attempts = a, key, site.Attestd.Attempts
		m.floor.attested = true
	}
	for i := range site.Sources {
		s, err := m.source(&site.Sources[i])
		if err != nil {
			return nil, fmt.Errorf("sources[%d]: %w", i, err)
		}
		b.Sources = append(b.Sources, s)
	}
	return b, nil
}

const (
	efivars  = "/sys/firmware/efi/efivars"
	fwCfgDir = "/sys/firmware/qemu_fw_cfg/by_name"
)

// hostConfig looks for the host config where a machine may have it. A place that has one which cannot be read ends the
// search, and the machine boots as if it had none: an operating system can leave a directory in its place, and must not
// keep the next one from booting by it.
func (m *Machine) hostConfig(ctx context.Context) ([]byte, string, error) {
	places := []config.Place{config.InEFI(efivars), config.InVolume(m.volumes.Open)}
	if m.o.Site.Lab {
		places = append(places, config.InFwCfg(fwCfgDir))
	}
	raw, place, err := config.FindHost(ctx, places)
	if err != nil && ctx.Err() == nil {
		m.o.Console.Warn(fmt.Errorf("%w: going on as without a host config", err))
		return nil, "", nil
	}
	return raw, place, err
}

// parseHost reads a host config that was found and measured; nil is as good as none. One that makes no sense is the same:
// anyone who can write it can also take it away.
func (m *Machine) parseHost(raw []byte) *config.Host {
	if raw == nil {
		return nil
	}
	host, err := config.ParseHost(raw)
	if err != nil {
		m.o.Console.Warn(fmt.Errorf("%w: going on as without a host config", err))
		return nil
	}
	return host
}

// withoutHost says that of as many rounds the last goes without the host config.
const withoutHost = 3

// hostFor is the host config for the next time that the network is made. One can be right in every word and lead nowhere: a
// foreign address, a VLAN or a proxy that is not there. An operating system that left it must not keep every later one
// from booting, so a machine that got nowhere with it twice does without, in turns.
func (m *Machine) hostFor(raw []byte) *config.Host {
	host := m.parseHost(raw)
	m.rounds++
	if host != nil && m.rounds%withoutHost == 0 {
		m.o.Console.Warn(errors.New("the network of the host config has led nowhere: this round goes without a host config"))
		return nil
	}
	return host
}

// network is the machine's network, or the one that is there already.
type network struct{ m *Machine }

func (n network) Up(ctx context.Context, raw []byte) error {
	m := n.m
	if m.o.NoNetwork {
		return nil
	}
	host := m.hostFor(raw)
	up, err := netup.Up(ctx, host, netup.Options{Before: m.up.Load(), Report: m.o.Console.Warn})
	if err != nil {
		return err
	}
	m.o.Console.Info(up.String())
	m.up.Store(up)
	return nil
}

func (n network) Down() error {
	if n.m.o.NoNetwork {
		return nil
	}
	n.m.up.Load().Close()
	return netup.Down()
}

// progress shows what fetch reports.
func (m *Machine) progress(p fetch.Progress) {
	m.o.Console.Progress(console.Progress{Done: p.Done, Total: p.Total, Rate: p.Rate, Left: p.Left()})
}

// proxy is for every connection of the machine.
func (m *Machine) proxy(r *http.Request) (*url.URL, error) { return m.up.Load().Proxy(r) }

func (m *Machine) dialer() *net.Dialer { return &net.Dialer{Timeout: transport.DialTimeout} }

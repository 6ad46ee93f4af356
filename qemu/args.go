package qemu

import (
	"cmp"
	"fmt"
	"maps"
	"slices"
	"strconv"
	"strings"
)

// The first inherited file descriptor of a child is 3 (os/exec.Cmd.ExtraFiles).
const (
	fdQMP = 3 + iota
	fdSerial
	fdTPM
)

// Slots on the PCI bus are fixed, so that machines with and without a data
// disk give the same device paths, and thus the same firmware measurements.
const (
	slotBoot     = 0x03
	slotNet      = 0x04
	slotRNG      = 0x05
	slotWatchdog = 0x06
	slotDisks    = 0x08
)

// args returns QEMU's command line. vars is the copy of the firmware's
// variables that this machine owns.
func (c *Config) args(accel Accel, vars string) []string {
	a := []string{
		"-name", "sealboot", "-nodefaults", "-no-user-config", "-display", "none",
		"-machine", "q35", "-accel", accel.option(), "-cpu", accel.cpu(),
		"-m", strconv.Itoa(c.memory()), "-smp", strconv.Itoa(cmp.Or(c.CPUs, 2)),
		"-drive", "if=pflash,format=raw,readonly=on,file=" + ovmf.code,
		"-drive", "if=pflash,format=raw,file=" + vars,
		"-chardev", "stdio,id=console,signal=off", "-serial", "chardev:console",
		"-chardev", fmt.Sprintf("socket,id=serial1,fd=%d", fdSerial), "-serial", "chardev:serial1",
		"-chardev", fmt.Sprintf("socket,id=qmp,fd=%d", fdQMP), "-mon", "chardev=qmp,mode=control",
		"-object", "rng-random,id=rng,filename=/dev/urandom",
		"-device", fmt.Sprintf("virtio-rng-pci,rng=rng,addr=%#x", slotRNG),
		"-device", fmt.Sprintf("i6300esb,addr=%#x", slotWatchdog),
	}
	if c.NoReboot {
		a = append(a, "-no-reboot")
	}
	base := "utc"
	if !c.RTC.IsZero() {
		base = c.RTC.UTC().Format("2006-01-02T15:04:05")
	}
	a = append(a, "-rtc", "base="+base+",clock=vm")
	if c.TPM != "" {
		a = append(a, "-chardev", fmt.Sprintf("socket,id=tpm,fd=%d", fdTPM),
			"-tpmdev", "emulator,id=tpm0,chardev=tpm", "-device", "tpm-crb,tpmdev=tpm0")
	}
	if c.IOMMU { // before the devices that go through it
		machine := slices.Index(a, "-machine") + 1
		if accel == KVM {
			a[machine] += ",kernel-irqchip=split"
		}
		a = slices.Insert(a, machine+1, "-device", "intel-iommu,intremap=on",
			"-device", fmt.Sprintf("pcie-root-port,id=bridge,addr=%#x", slotNet))
	}
	a = append(a, c.bootArgs()...)
	a = append(a, c.networkArgs()...)
	if c.IOMMU {
		for i, s := range a {
			if strings.HasPrefix(s, "virtio-") {
				a[i] += ",disable-legacy=on,iommu_platform=on"
			}
		}
	}
	return a
}

// Model names everything of the machine that firmware may measure. Paths in c are
// part of it and need not exist.
func (c *Config) Model() string {
	return strings.Join(c.args(cmp.Or(c.Accel, Probe()), ""), "\n")
}

func (c *Config) bootArgs() []string {
	var a []string
	if c.Boot != "" {
		a = append(a, diskArgs(Disk{Path: c.Boot}, "boot", slotBoot, ",bootindex=0")...)
	}
	for i, d := range c.Disks {
		a = append(a, diskArgs(d, fmt.Sprintf("disk%d", i), slotDisks+i, "")...)
	}
	if c.Kernel != "" {
		a = append(a, "-kernel", c.Kernel)
	}
	if c.Initrd != "" {
		a = append(a, "-initrd", c.Initrd)
	}
	if c.Cmdline != "" {
		a = append(a, "-append", c.Cmdline)
	}
	for _, name := range slices.Sorted(maps.Keys(c.FWCfg)) {
		a = append(a, "-fw_cfg", "name="+name+",file="+c.FWCfg[name])
	}
	for _, text := range c.SMBIOS {
		a = append(a, "-smbios", "type=11,value="+strings.ReplaceAll(text, ",", ",,"))
	}
	return a
}

func diskArgs(d Disk, id string, slot int, more string) []string {
	drive := "if=none,id=" + id + ",format=" + cmp.Or(d.Format, "raw") + ",file=" + d.Path
	if d.ReadOnly {
		drive += ",readonly=on"
	}
	if d.Serial != "" {
		more += ",serial=" + d.Serial
	}
	return []string{"-drive", drive, "-device", fmt.Sprintf("virtio-blk-pci,drive=%s,addr=%#x%s", id, slot, more)}
}

func (c *Config) networkArgs() []string {
	if c.NoNetwork {
		return nil
	}
	var net strings.Builder
	net.WriteString("user,id=net0")
	if c.Isolated {
		net.WriteString(",restrict=on")
	}
	for _, f := range c.Forward {
		fmt.Fprintf(&net, ",hostfwd=tcp:127.0.0.1:%d-:%d", f.Host, f.Guest)
	}
	place := fmt.Sprintf("addr=%#x", slotNet)
	if c.IOMMU {
		place = "bus=bridge,addr=0x0"
	}
	return []string{"-netdev", net.String(), "-device", "virtio-net-pci,id=nic0,netdev=net0,mac=52:54:00:5e:a1:01,romfile=," + place}
}

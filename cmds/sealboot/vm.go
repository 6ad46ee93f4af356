package main

import (
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/sealboot/sealboot/qemu"
)

func newVMCmd() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "vm",
		Short: "Run virtual machines with firmware, a TPM and a serial console",
	}
	cmd.AddCommand(newVMRunCmd(), newVMTPMCmd())
	return cmd
}

func newVMRunCmd() *cobra.Command {
	var (
		c       qemu.Config
		disks   []string
		forward []string
		accel   string
		rtc     string
		noTPM   bool
		timeout time.Duration
	)
	cmd := &cobra.Command{
		Use:   "run",
		Short: "Run a machine until it powers off; its console is this terminal",
		Long: `Run a virtual machine with UEFI firmware and an emulated TPM. What must survive
a power cycle, the firmware's variables and the TPM's state, is kept in --dir.

In the guest, 10.0.2.2 is this machine's loopback. Ctrl-C pulls the plug.`,
		Example: `  sealboot vm run --boot loader/loader.img --disk data.img --memory 3072
  sealboot vm run --boot loader/loader.img --rtc 1970-01-01T00:00:00Z`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			for _, d := range disks {
				c.Disks = append(c.Disks, qemu.Disk{Path: d})
			}
			var err error
			if c.Forward, err = parseForwards(forward); err != nil {
				return err
			}
			if rtc != "" {
				if c.RTC, err = time.Parse(time.RFC3339, rtc); err != nil {
					return fmt.Errorf("--rtc %q: want a time like 2001-02-03T04:05:06Z", rtc)
				}
			}
			if c.Accel, err = parseAccel(accel); err != nil {
				return err
			}
			if !noTPM {
				c.TPM = filepath.Join(c.Dir, "tpm")
				if err := qemu.CreateTPM(cmd.Context(), c.TPM, qemu.TPMOptions{}); err != nil {
					return err
				}
			}
			return runVM(cmd, c, timeout)
		},
	}
	f := cmd.Flags()
	f.StringVar(&c.Dir, "dir", "vm", "the directory of what the machine keeps")
	f.StringVar(&c.Boot, "boot", "", "the disk image that firmware boots from")
	f.StringVar(&c.Kernel, "kernel", "", "a kernel to start directly")
	f.StringVar(&c.Initrd, "initrd", "", "the initrd of --kernel")
	f.StringVar(&c.Cmdline, "cmdline", "", "the command line of --kernel")
	f.StringArrayVar(&disks, "disk", nil, "a raw disk image to attach (may be repeated)")
	f.StringArrayVar(&forward, "forward", nil, "HOST:GUEST, a TCP port of this machine's loopback and of the guest (may be repeated)")
	f.IntVar(&c.Memory, "memory", 2048, "memory in MiB")
	f.IntVar(&c.CPUs, "cpus", 2, "number of processors")
	f.BoolVar(&c.Isolated, "isolated", false, "let the guest reach nothing outside")
	f.BoolVar(&c.NoReboot, "no-reboot", false, "end when the guest resets")
	f.BoolVar(&noTPM, "no-tpm", false, "leave the TPM out")
	f.StringVar(&rtc, "rtc", "", "the time of the hardware clock at the start, RFC 3339")
	f.StringVar(&accel, "accel", "auto", "kvm, tcg, or auto: kvm if a guest really runs on it")
	f.DurationVar(&timeout, "timeout", 0, "pull the plug after this time; 0 means never")
	cmd.MarkFlagsOneRequired("boot", "kernel")
	oneOf(cmd, "accel", "auto", string(qemu.KVM), string(qemu.TCG))
	return cmd
}

// runVM runs a machine on the terminal until it ends.
func runVM(cmd *cobra.Command, c qemu.Config, timeout time.Duration) error {
	c.Console = cmd.OutOrStdout()
	vm, err := qemu.Start(cmd.Context(), c)
	if err != nil {
		return err
	}
	defer vm.Stop()
	fmt.Fprintf(cmd.ErrOrStderr(), "sealboot: machine runs on %s; Ctrl-C pulls its plug; its console is also in %s\n", vm.Accel(), c.ConsoleLog())
	go copyInput(cmd, vm)
	var expired <-chan time.Time
	if timeout > 0 {
		expired = time.After(timeout)
	}
	select {
	case <-vm.Done():
	case <-expired:
		return fmt.Errorf("the machine was still running after %v", timeout)
	case <-cmd.Context().Done():
		return cmd.Context().Err()
	}
	exit, err := vm.Wait(cmd.Context(), time.Second)
	if err != nil {
		return err
	}
	if exit.Panic != "" {
		return fmt.Errorf("the guest's kernel panicked: %s", exit.Panic)
	}
	fmt.Fprintf(cmd.ErrOrStderr(), "sealboot: machine ended: %s\n", exit.Reason)
	return nil
}

// copyInput hands what is typed to the guest. It ends with the program.
func copyInput(cmd *cobra.Command, vm *qemu.VM) {
	buffer := make([]byte, 1024)
	for {
		n, err := cmd.InOrStdin().Read(buffer)
		if n > 0 && vm.Type(string(buffer[:n])) != nil || err != nil {
			return
		}
	}
}

func parseForwards(specs []string) ([]qemu.Forward, error) {
	var forwards []qemu.Forward
	for _, spec := range specs {
		host, guest, _ := strings.Cut(spec, ":")
		h, err1 := strconv.ParseUint(host, 10, 16)
		g, err2 := strconv.ParseUint(guest, 10, 16)
		if err1 != nil || err2 != nil {
			return nil, fmt.Errorf("--forward %q: want HOST:GUEST, two port numbers", spec)
		}
		forwards = append(forwards, qemu.Forward{Host: int(h), Guest: int(g)})
	}
	return forwards, nil
}

func parseAccel(name string) (qemu.Accel, error) {
	switch name {
	case "auto":
		return "", nil
	case string(qemu.KVM), string(qemu.TCG):
		return qemu.Accel(name), nil
	}
	return "", fmt.Errorf("--accel %q: want kvm, tcg or auto", name)
}

func newVMTPMCmd() *cobra.Command {
	var o qemu.TPMOptions
	cmd := &cobra.Command{
		Use:     "tpm DIRECTORY",
		Short:   "Manufacture a TPM with endorsement certificates for a machine",
		Example: `  sealboot vm tpm vm/tpm --ca ca --banks sha256,sha384`,
		Args:    cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			if err := qemu.CreateTPM(cmd.Context(), args[0], o); err != nil {
				return err
			}
			if o.CA == "" {
				o.CA = filepath.Join(args[0], "ca")
			}
			issuer, root := qemu.CACertificate(o.CA)
			for _, path := range []string{issuer, root} {
				if _, err := os.Stat(path); err != nil {
					return fmt.Errorf("the TPM was made before, with another authority: %w", err)
				}
				fmt.Fprintln(cmd.OutOrStdout(), path)
			}
			return nil
		},
	}
	cmd.Flags().StringVar(&o.CA, "ca", "", "the directory of the manufacturer's authority, made when missing (default DIRECTORY/ca)")
	cmd.Flags().StringVar(&o.Banks, "banks", "sha256", "the active PCR banks, separated by commas")
	return cmd
}

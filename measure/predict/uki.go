package predict

import (
	"errors"
	"fmt"
	"io"
	"regexp"

	"github.com/google/go-tpm/tpm2"

	"github.com/sealboot/sealboot/measure/fwlog"
)

// PCRs that a UKI's start extends.
const (
	PCRBootLoader = 4  // by firmware: every executable that it loads
	PCRKernel     = 11 // by systemd-stub: the sections of the UKI
)

// ErrStub means that a UKI's stub is not one whose measurements are known.
var ErrStub = errors.New("EFI stub of unknown behaviour")

// stubSections are the sections that systemd-stub 252 measures, in its order,
// which is not that of the file. It does not measure .pcrsig, nor what it does
// not know, such as .uname.
var stubSections = []string{".linux", ".osrel", ".cmdline", ".initrd", ".splash", ".dtb", ".pcrpkey"}

var stubMagic = regexp.MustCompile(`^#### LoaderInfo: systemd-stub 252[. -]`)

// UKI predicts the events that starting a unified kernel image causes, in order:
// firmware measures the file into PCR 4, the stub each section into PCR 11, its name
// with a NUL and then its content, and firmware the kernel into PCR 4 when the stub
// has it loaded.
//
// The stub writes nothing to PCR 12 and 13 unless it is given load options,
// credentials or system extensions. That shows as an event in the firmware's log,
// where none may be.
func UKI(r io.ReaderAt, size int64, banks []tpm2.TPMAlgID) ([]Event, error) {
	events, err := uki(r, size, banks)
	if err != nil {
		return nil, fmt.Errorf("predict UKI: %w", err)
	}
	return events, nil
}

func uki(r io.ReaderAt, size int64, banks []tpm2.TPMAlgID) ([]Event, error) {
	img, err := parseImage(r, size)
	if err != nil {
		return nil, err
	}
	if err := img.checkStub(); err != nil {
		return nil, err
	}
	file, err := Authenticode(r, size, banks)
	if err != nil {
		return nil, err
	}
	events := []Event{{PCRBootLoader, fwlog.EventEFIBootServicesApp, file, "UKI"}}
	for _, name := range stubSections {
		content, size, err := img.section(name)
		if err != nil {
			return nil, err
		}
		if content == nil || size == 0 {
			continue
		}
		sectionEvents, err := measureSection(name, content, size, banks)
		if err != nil {
			return nil, err
		}
		events = append(events, sectionEvents...)
	}
	kernel, size, err := img.section(".linux")
	if err != nil {
		return nil, err
	}
	if kernel == nil {
		return nil, fmt.Errorf("%w: no section .linux", ErrPE)
	}
	inner, err := Authenticode(kernel, size, banks)
	if err != nil {
		return nil, fmt.Errorf("section .linux: %w", err)
	}
	return append(events, Event{PCRBootLoader, fwlog.EventEFIBootServicesApp, inner, "kernel in the UKI"}), nil
}

func measureSection(name string, content io.ReaderAt, size int64, banks []tpm2.TPMAlgID) ([]Event, error) {
	nameHash, err := newHashes(banks)
	if err != nil {
		return nil, err
	}
	if _, err := nameHash.Write([]byte(name + "\x00")); err != nil {
		return nil, err
	}
	contentHash, err := newHashes(banks)
	if err != nil {
		return nil, err
	}
	if err := contentHash.copyRange(content, 0, size); err != nil {
		return nil, fmt.Errorf("section %s: %w", name, err)
	}
	return []Event{
		{PCRKernel, fwlog.EventIPL, nameHash.digests(), "name of " + name},
		{PCRKernel, fwlog.EventIPL, contentHash.digests(), "content of " + name},
	}, nil
}

// checkStub makes sure that the stub is one that stubSections is true of.
func (img *image) checkStub() error {
	magic, size, err := img.section(".sdmagic")
	if err != nil {
		return err
	}
	if magic == nil || size > 256 {
		return fmt.Errorf("%w: it does not say that it is systemd-stub", ErrStub)
	}
	b := make([]byte, size)
	if _, err := magic.ReadAt(b, 0); err != nil {
		return fmt.Errorf("section .sdmagic: %w", err)
	}
	if !stubMagic.Match(b) {
		return fmt.Errorf("%w: %q; systemd-stub 252 is known", ErrStub, b)
	}
	return nil
}

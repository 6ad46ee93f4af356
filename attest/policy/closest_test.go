package policy

import (
	"slices"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/sealboot/sealboot/attest/verify"
	"github.com/sealboot/sealboot/measure/cel"
	"github.com/sealboot/sealboot/measure/event"
	"github.com/sealboot/sealboot/measure/fwlog"
)

// boots replaces what a device has measured into PCR 12.
func boots(t testing.TB, v *verify.Verified, d event.Descriptor) {
	t.Helper()
	records, err := d.Records()
	if err != nil {
		t.Fatal(err)
	}
	v.Loader = slices.DeleteFunc(v.Loader, func(e cel.Entry) bool { return e.PCR == event.PCRImage })
	for _, r := range records {
		v.Loader = append(v.Loader, cel.Entry{PCR: event.PCRImage, Record: r})
	}
}

func artifact(role, content string) event.Artifact {
	return event.Artifact{Role: role, SHA256: digestOf(content), Size: int64(len(content))}
}

func container(layers ...string) event.Descriptor {
	d := event.Descriptor{Kind: event.KindContainer, Artifacts: []event.Artifact{
		artifact(event.RoleConfig, "config"), artifact(event.RoleKernel, "kernel"), artifact(event.RoleCmdline, "cmdline"),
	}}
	for _, l := range layers {
		d.Artifacts = append(d.Artifacts, artifact(event.RoleLayer, l))
	}
	return d
}

// TestDenialNamesWhatDiffers pins the line that a person at the console has to work with.
func TestDenialNamesWhatDiffers(t *testing.T) {
	linux := func(artifacts ...event.Artifact) event.Descriptor {
		return event.Descriptor{Kind: event.KindLinux, Artifacts: artifacts}
	}
	kernel, initrd, cmdline := artifact(event.RoleKernel, "kernel"), artifact(event.RoleInitrd, "initrd"), artifact(event.RoleCmdline, "cmdline")
	for name, c := range map[string]struct {
		change func(*verify.Verified, *Set)
		want   string
	}{
		"kernel": {func(v *verify.Verified, _ *Set) {
			boots(t, v, linux(artifact(event.RoleKernel, "evil kernel"), initrd, cmdline))
		}, "image: PCR 12, artifact kernel: differs from reference os-2: found sha256:a5b8d27fb762.. (11 bytes), expected sha256:6923dd1bc046.. (6 bytes)"},
		"initrd of the older image": {func(v *verify.Verified, _ *Set) {
			boots(t, v, linux(event.Artifact{Role: event.RoleKernel, SHA256: digestOf("old kernel"), Size: 6}, artifact(event.RoleInitrd, "evil"), cmdline))
		}, "image: PCR 12, artifact initrd: differs from reference os-1: found sha256:b5c1fb2efc6d.. (4 bytes), expected sha256:09e6c018d2c8.. (6 bytes)"},
		"two": {func(v *verify.Verified, _ *Set) {
			boots(t, v, linux(kernel, artifact(event.RoleInitrd, "evil"), artifact(event.RoleCmdline, "init=/bin/sh")))
		}, "image: PCR 12, artifact initrd: differs from reference os-2: found sha256:b5c1fb2efc6d.. (4 bytes), expected sha256:09e6c018d2c8.. (6 bytes)"},
		"missing": {func(v *verify.Verified, _ *Set) { boots(t, v, linux(kernel, cmdline)) },
			"image: PCR 12, artifact initrd: missing, reference os-2 has it: found nothing, expected sha256:09e6c018d2c8.. (6 bytes)"},
		"added": {func(v *verify.Verified, _ *Set) {
			boots(t, v, linux(kernel, initrd, cmdline, artifact(event.RoleDTB, "tree")))
		}, "image: PCR 12, artifact dtb: not in reference os-2: found sha256:dc9c5edb8b2d.. (4 bytes)"},
		"third layer": {func(v *verify.Verified, s *Set) {
			addImage(t, s, "box", container("base", "packages", "config"))
			boots(t, v, container("base", "packages", "evil"))
		}, "image: PCR 12, artifact layer 3: differs from reference box: found sha256:b5c1fb2efc6d.. (4 bytes), expected sha256:b79606fb3afe.. (6 bytes)"},
		"a layer more": {func(v *verify.Verified, s *Set) {
			addImage(t, s, "box", container("base"))
			boots(t, v, container("base", "evil"))
		}, "image: PCR 12, artifact layer 2: not in reference box: found sha256:b5c1fb2efc6d.. (4 bytes)"},
		"command line in the UKI": {func(v *verify.Verified, _ *Set) {
			firmwareEvent(v, 25, "evil UKI")
			firmwareEvent(v, 31, "init=/bin/sh")
		}, "loader: PCR 11, #31 EV_IPL .cmdline: differs from loader loader-1: found sha256:4b9c3ddaf07e.., expected sha256:c8b4d8e9e8d7.."},
		"initramfs in the UKI": {func(v *verify.Verified, _ *Set) {
			firmwareEvent(v, 25, "evil UKI")
			firmwareEvent(v, 33, "evil initrd")
		}, "loader: PCR 11, #33 EV_IPL .initrd: differs from loader loader-1: found sha256:ad737725e2f2.., expected sha256:bada18030509.."},
		"section left out": {func(v *verify.Verified, _ *Set) {
			v.Firmware = slices.DeleteFunc(slices.Clone(v.Firmware), func(e fwlog.Event) bool { return e.Num == 32 || e.Num == 33 })
		}, "loader: PCR 11, event 6 .initrd: differs from loader loader-1: found nothing, expected sha256:15ee37e75f1e.."},
		"UKI without a section's change": {func(v *verify.Verified, _ *Set) { firmwareEvent(v, 25, "evil UKI") },
			"loader: PCR 4, #25 EV_EFI_BOOT_SERVICES_APPLICATION: not exactly what loader loader-1 starts: found sha256:c6671ea5a1fc.., expected sha256:3b00314add14.."},
		"closest loader is not the newest": {func(v *verify.Verified, s *Set) {
			firmwareEvent(v, 31, "init=/bin/sh")
			other := *s.Loaders[0]
			other.Name, other.PCR4, other.PCR11 = "loader-2", []Digests{{"sha256": digestOf("2")}}, nil
			s.Loaders = append(s.Loaders, &other)
		}, "loader: PCR 11, #31 EV_IPL .cmdline: differs from loader loader-1: found sha256:4b9c3ddaf07e.., expected sha256:c8b4d8e9e8d7.."},
		"firmware, and the closest profile": {func(v *verify.Verified, s *Set) {
			other := *s.Profiles[0]
			other.Name, other.Rules = "other", slices.Clone(other.Rules)
			other.Rules[0].Events = []ProfileEvent{{Digests: []Digests{{"sha256": digestOf("other")}}}}
			s.Profiles = append(s.Profiles, &other)
			firmwareEvent(v, 4, "off")
		}, "firmware: PCR 7, #4 EV_EFI_VARIABLE_DRIVER_CONFIG SecureBoot: differs (profile ovmf): found sha256:b4dc66dde806.., expected sha256:115aa827dbcc.."},
	} {
		t.Run(name, func(t *testing.T) {
			v, set := good(t)
			c.change(v, set)
			a := set.Appraise(v, Device{}, History{})
			if len(a.Reasons) != 1 {
				t.Fatalf("reasons %v, want one", a.Reasons)
			}
			got := a.Reasons[0].String()
			if diff := cmp.Diff(c.want, got); diff != "" {
				t.Errorf("(-want +got):\n%s", diff)
			}
			if len(got) > 200 {
				t.Errorf("%d characters, which is no line", len(got))
			}
		})
	}
}

func addImage(t testing.TB, s *Set, name string, d event.Descriptor) {
	t.Helper()
	i, err := NewImage(name, "", 1, d, banks)
	if err != nil {
		t.Fatal(err)
	}
	s.Add(i)
}

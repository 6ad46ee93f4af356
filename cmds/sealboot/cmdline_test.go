package main

import (
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

func TestClosed(t *testing.T) {
	const all = "systemd.import_credentials=no efi=noruntime panic=10 rd.shell=0 rd.emergency=reboot hibernate=no"
	for line, want := range map[string]string{
		"":                               all,
		"console=ttyS0":                  "console=ttyS0 " + all,
		all + " quiet":                   all + " quiet",
		"efi=runtime rd.shell=1":         "efi=runtime rd.shell=1 systemd.import_credentials=no panic=10 rd.emergency=reboot hibernate=no",
		`note="panic=0 efi=x" xpanic=10`: `note="panic=0 efi=x" xpanic=10 ` + all,
	} {
		if diff := cmp.Diff(want, closed(line)); diff != "" {
			t.Errorf("%q (-want +got):\n%s", line, diff)
		}
		if left := unsaid(closed(line)); left != nil {
			t.Errorf("%q: still unsaid: %q", line, left)
		}
	}
}

func TestWarnOpen(t *testing.T) {
	for line, want := range map[string]string{
		closed("quiet"): "",
		strings.Replace(closed("quiet"), "panic=10", "", 1): "warning: site.json: the command line does not say panic=10, ",
	} {
		var b strings.Builder
		if warnOpen(&b, "site.json", line); !strings.HasPrefix(b.String(), want) || want == "" && b.Len() > 0 {
			t.Errorf("%q: it says %q, want %q", line, b.String(), want)
		}
	}
}

package server

import (
	"bufio"
	"encoding/json"
	"io"
	"net/http"
	"os"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/sealboot/sealboot/attest/store"
	"github.com/sealboot/sealboot/attest/wire"
	"github.com/sealboot/sealboot/measure/golden"
)

const hostileText = `<script>alert(1)</script><img src=x onerror=alert(2)>"'&{{.Site}}` + "\u202egnp.\x1b[31m"

// heap are 4 KiB of accents on one letter, and a change of direction.
var heap = "a" + strings.Repeat("\u0301\u0489", 1024) + "\u2067\u05d0\u200f"

func TestClean(t *testing.T) {
	for in, want := range map[string]string{
		"till 3 caf\u00e9":        "till 3 caf\u00e9",
		"\x1b[31mred\u202egnp\n":  "[31mredgnp",
		heap + "b\u0301":          "a\u0301\u0489\u05d0b\u0301",
		strings.Repeat("x", 5000): strings.Repeat("x", maxText) + "...",
	} {
		if got := clean(in); got != want {
			t.Errorf("clean(%.40q) = %q, want %q", in, got, want)
		}
	}
}

// TestStatusPage shows devices whose texts try to become part of the page. With SEALBOOT_TEST_PAGE set the
// page is also written there, to be looked at in a browser.
func TestStatusPage(t *testing.T) {
	l := newLab(t)
	ctx := t.Context()
	for i, state := range []store.State{store.Enrolled, store.Pending, store.Quarantined} {
		id := strings.Repeat(string(rune('a'+i)), 64)
		d := store.Device{ID: id, EKs: []string{id}, State: state, Tier: "hash", Label: []string{"till-1", hostileText + heap, ""}[i]}
		if err := l.store.Enrol(ctx, d, store.Event{Kind: "enrol"}); err != nil {
			t.Fatal(err)
		}
	}
	a := strings.Repeat("a", 64)
	ok := store.Status{Time: time.Now(), Phase: "boot", Image: "edge-os-1.4", Version: 14, Loader: "v1.2.0"}
	if err := l.store.Decide(ctx, store.Decision{Cookie: "c", ID: "d", Device: a, Allow: true, Ack: "x", Expires: time.Now(), Status: ok, Effects: store.Effects{Status: ok}}); err != nil {
		t.Fatal(err)
	}
	if err := l.store.Confirm(ctx, "d", "x"); err != nil {
		t.Fatal(err)
	}
	for _, ek := range []string{strings.Repeat("b", 64), strings.Repeat("f", 64)} {
		report, err := wire.Marshal(&wire.Report{Version: wire.Version, Site: "lab", EK: ek, Stage: "fetch", Reason: hostileText + strings.Repeat("long ", 100), Loader: hostileText})
		if err != nil {
			t.Fatal(err)
		}
		if status, code := l.post(l.client(), wire.PathReport, report); status != http.StatusOK {
			t.Fatal(status, code)
		}
	}
	text := l.get("/")
	if file := os.Getenv("SEALBOOT_TEST_PAGE"); file != "" {
		css := l.get("/style.css")
		page := strings.Replace(text, `<link rel="stylesheet" href="/style.css">`, "<style>"+css+"</style>", 1)
		if err := os.WriteFile(file, []byte(page), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	for _, bad := range []string{"<script", "<img", "\x1b"} {
		if strings.Contains(text, bad) {
			t.Errorf("the page contains %q", bad)
		}
	}
	for _, want := range []string{"edge-os-1.4", "loader v1.2.0", "by &lt;", "till-1", "waiting for approval", "&lt;script&gt;"} {
		if !strings.Contains(text, want) {
			t.Errorf("the page lacks %q", want)
		}
	}
}

func TestAdminHeadersAndHost(t *testing.T) {
	l := newLab(t)
	resp, err := http.Get(l.admin + "/")
	if err != nil {
		t.Fatal(err)
	}
	resp.Body.Close()
	if csp := resp.Header.Get("Content-Security-Policy"); !strings.HasPrefix(csp, "default-src 'none'") {
		t.Errorf("Content-Security-Policy %q", csp)
	}
	req, err := http.NewRequest(http.MethodGet, l.admin+"/", nil)
	if err != nil {
		t.Fatal(err)
	}
	req.Host = "evil.example"
	if resp, err = http.DefaultClient.Do(req); err != nil {
		t.Fatal(err)
	}
	resp.Body.Close()
	if resp.StatusCode != http.StatusMisdirectedRequest {
		t.Errorf("another host's name: %s", resp.Status)
	}
	if resp, err = http.Post(l.admin+"/", "text/plain", nil); err != nil {
		t.Fatal(err)
	}
	resp.Body.Close()
	if resp.StatusCode != http.StatusMethodNotAllowed {
		t.Errorf("POST: %s", resp.Status)
	}
}

// TestMetrics has every name and help in the form in which they are collected. Dashboards
// and alerts of others depend on them.
func TestMetrics(t *testing.T) {
	l := newLab(t)
	m := l.machine(1)
	l.enrol(m)
	r, _ := boot(t, m, "good")
	if err := m.Ack(t.Context(), r); err != nil {
		t.Fatal(err)
	}
	resp, err := http.Get(l.admin + "/metrics")
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	if got := resp.Header.Get("Content-Type"); !strings.HasPrefix(got, "text/plain; version=0.0.4") {
		t.Errorf("Content-Type %q", got)
	}
	raw, err := io.ReadAll(resp.Body)
	if err != nil {
		t.Fatal(err)
	}
	text := regexp.MustCompile(`(?m)^(sealboot_start_time_seconds|sealboot_appraisal_seconds_sum) .*$`).ReplaceAllString(string(raw), "$1 0")
	golden.Check(t, "testdata/metrics.golden", text)
	if err := l.store.Close(); err != nil {
		t.Fatal(err)
	}
	broken, err := http.Get(l.admin + "/metrics")
	if err != nil {
		t.Fatal(err)
	}
	broken.Body.Close()
	if broken.StatusCode != http.StatusServiceUnavailable {
		t.Errorf("without a store: %s", broken.Status)
	}
}

func TestMetricsAndAuditExport(t *testing.T) {
	l := newLab(t)
	m := l.machine(1)
	id := l.enrol(m)
	r, _ := boot(t, m, "good")
	if err := m.Ack(t.Context(), r); err != nil {
		t.Fatal(err)
	}
	text := l.get("/metrics")
	for _, want := range []string{
		`sealboot_decisions_total{code="none",phase="boot",verdict="allow"} 1`, "sealboot_acknowledged_total 1",
		`sealboot_devices{state="enrolled"} 1`, `sealboot_requests_total{endpoint="/v1/attest/evidence",status="200"} 1`,
	} {
		if !strings.Contains(text, want) {
			t.Errorf("metrics lack %s in\n%s", want, text)
		}
	}
	if strings.Contains(text, id) {
		t.Error("a metric names a device")
	}
	var v store.Verifier
	lines := bufio.NewScanner(strings.NewReader(l.get("/audit")))
	for lines.Scan() {
		var rec store.Record
		if err := json.Unmarshal(lines.Bytes(), &rec); err != nil {
			t.Fatal(err)
		}
		if err := v.Add(rec); err != nil {
			t.Error(err)
		}
	}
	var heads []store.Head
	if err := json.Unmarshal([]byte(l.get("/audit/heads")), &heads); err != nil || len(heads) != 1 {
		t.Fatal(heads, err)
	}
	if err := v.At(heads[0]); err != nil {
		t.Error(err)
	}
	if err := heads[0].Verify(l.site.ServerPublic()); err != nil {
		t.Error(err)
	}
}

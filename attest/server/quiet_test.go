package server

import (
	"bytes"
	"context"
	"fmt"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/sealboot/sealboot/attest/policy"
	"github.com/sealboot/sealboot/attest/store"
	"github.com/sealboot/sealboot/attest/verify"
	"github.com/sealboot/sealboot/attest/wire"
)

// denyAll is a policy that a stranger's evidence meets.
func denyAll([]store.Document) (appraiser, error) {
	return appraiseFunc(func(*verify.Verified, policy.Device, policy.History) *policy.Appraisal {
		return &policy.Appraisal{Reasons: []wire.Reason{{Code: wire.CodeImage, Detail: "no"}}}
	}), nil
}

// TestDenialsFillNoAuditLog sends, as anyone can who knows an EK's public key, evidence that is denied.
func TestDenialsFillNoAuditLog(t *testing.T) {
	l := newBareLab(t)
	l.t = t
	now := time.Now()
	l.server.Now = func() time.Time { return now }
	d, h := l.softDevice(t), l.server.Devices()
	l.server.appraisers.parse = denyAll
	before := len(l.events())
	const sent = denialBurst + 30
	for range sent {
		w := send(h, wire.PathEvidence, evidenceOf(t, h, d))
		if w.Code != http.StatusForbidden || !strings.Contains(w.Body.String(), `"code":"image"`) {
			t.Fatalf("%d %s", w.Code, w.Body)
		}
	}
	if n := len(l.events()) - before; n != denialBurst {
		t.Errorf("%d audit records for %d denials, want %d", n, sent, denialBurst)
	}
	now = now.Add(time.Minute + time.Second)
	send(h, wire.PathEvidence, evidenceOf(t, h, d))
	events := l.events()
	if n := len(events) - before; n != denialBurst+1 {
		t.Errorf("%d audit records after a minute, want %d", n, denialBurst+1)
	}
	if got := events[len(events)-1].Detail["unrecorded"]; !strings.HasPrefix(got, "30 denials") {
		t.Errorf("the next record tells of %q, want 30 denials", got)
	}
	// The device itself, admitted again, is not kept waiting by what a stranger did in its name.
	l.server.appraisers = appraisers{parse: admitAll}
	if w := send(h, wire.PathEvidence, evidenceOf(t, h, d)); w.Code != http.StatusOK {
		t.Errorf("a good boot after many denials: %d %s", w.Code, w.Body)
	}
}

// TestReleasesHaveAPace: evidence with good logs and a software AK looks good, and each release is a record.
func TestReleasesHaveAPace(t *testing.T) {
	l := newBareLab(t)
	now := time.Now()
	l.server.Now = func() time.Time { return now }
	d, h := l.softDevice(t), l.server.Devices()
	for i := range releaseBurst + 1 {
		w := send(h, wire.PathEvidence, evidenceOf(t, h, d))
		if want := i < releaseBurst; (w.Code == http.StatusOK) != want {
			t.Fatalf("release %d: %d %s", i, w.Code, w.Body)
		}
	}
}

// TestReportHidesNoDenial: what a loader reports of its denial is less than what attestd knows.
func TestReportHidesNoDenial(t *testing.T) {
	l := newBareLab(t)
	d, h := l.softDevice(t), l.server.Devices()
	l.server.appraisers.parse = denyAll
	send(h, wire.PathEvidence, evidenceOf(t, h, d))
	report := func(stage string) store.Status {
		t.Helper()
		raw, err := wire.Marshal(&wire.Report{Version: wire.Version, Site: "lab", EK: d.ID(), Stage: stage, Reason: "denied", Loader: "test"})
		if err != nil {
			t.Fatal(err)
		}
		if w := send(h, wire.PathReport, raw); w.Code != http.StatusOK {
			t.Fatalf("report: %d %s", w.Code, w.Body)
		}
		dev, err := l.store.Device(t.Context(), d.ID())
		if err != nil {
			t.Fatal(err)
		}
		return dev.Attempt
	}
	if a := report("attest"); a.Verdict != "deny" {
		t.Errorf("after a report about attestation: %+v", a)
	}
	if a := report("fetch"); a.Verdict != "report" || a.Stage != "fetch" {
		t.Errorf("after a report about another stage: %+v", a)
	}
}

// TestReportsMuteNoDenial sends, as anyone can who knows an EK's hash, more reports than are shown, from the device's
// own network: the denials after them are recorded, and shown.
func TestReportsMuteNoDenial(t *testing.T) {
	l := newBareLab(t)
	l.t = t
	now := time.Now()
	l.server.Now = func() time.Time { return now }
	d, h := l.softDevice(t), l.server.Devices()
	l.server.appraisers.parse = denyAll
	report := func() {
		t.Helper()
		raw, err := wire.Marshal(&wire.Report{Version: wire.Version, Site: "lab", EK: d.ID(), Stage: "fetch", Reason: "all is well", Loader: "x"})
		if err != nil {
			t.Fatal(err)
		}
		if w := send(h, wire.PathReport, raw); w.Code != http.StatusOK {
			t.Fatalf("report: %d %s", w.Code, w.Body)
		}
	}
	before := len(l.events())
	for range 100 {
		report()
	}
	for range 3 {
		send(h, wire.PathEvidence, evidenceOf(t, h, d))
	}
	if n := len(l.events()) - before; n != 3 {
		t.Errorf("%d audit records for 3 denials after 100 reports, want 3", n)
	}
	now = now.Add(time.Hour)
	report()
	dev, err := l.store.Device(t.Context(), d.ID())
	if err != nil {
		t.Fatal(err)
	}
	if h := dev.HiddenDenial(); h == nil || h.Stage != string(wire.CodeImage) {
		t.Errorf("after a report, the denial that is shown is %+v", h)
	}
	w := httptest.NewRecorder()
	r := httptest.NewRequest(http.MethodGet, "/", nil)
	r.Host = "localhost"
	l.server.Admin().ServeHTTP(w, r)
	if page := w.Body.String(); !strings.Contains(page, "all is well") || !strings.Contains(page, `<span class="tag deny">`) {
		t.Errorf("the page shows not both, the report and the denial:\n%s", page)
	}
	// A release of somebody else's making hides it neither; what the device proves does.
	l.server.appraisers = appraisers{parse: admitAll}
	now = now.Add(time.Hour)
	if w := send(h, wire.PathEvidence, evidenceOf(t, h, d)); w.Code != http.StatusOK {
		t.Fatalf("good evidence: %d %s", w.Code, w.Body)
	}
	if dev, err = l.store.Device(t.Context(), d.ID()); err != nil || dev.Attempt.Verdict != "allow" || dev.HiddenDenial() == nil {
		t.Errorf("after a release that was not acknowledged: attempt %q, denial %+v, %v", dev.Attempt.Verdict, dev.HiddenDenial(), err)
	}
	dev.Confirmed.Time = now
	if h := dev.HiddenDenial(); h != nil {
		t.Errorf("after a proven boot: %+v", h)
	}
}

// TestStrangerMutesNoDenial: denials in another network than the device's do not use up its pace, and a replay does not
// take the count of those that were not recorded with it.
func TestStrangerMutesNoDenial(t *testing.T) {
	l := newBareLab(t)
	l.t = t
	now := time.Now()
	l.server.Now = func() time.Time { return now }
	d, h := l.softDevice(t), l.server.Devices()
	l.server.appraisers.parse = denyAll
	from := func(remote string, m3 []byte) {
		t.Helper()
		r := httptest.NewRequest(http.MethodPost, wire.PathEvidence, bytes.NewReader(m3))
		r.Header.Set("Content-Type", wire.ContentType)
		r.RemoteAddr = remote
		w := httptest.NewRecorder()
		h.ServeHTTP(w, r)
		if w.Code != http.StatusForbidden && w.Code != http.StatusConflict {
			t.Fatalf("%d %s", w.Code, w.Body)
		}
	}
	var replayed []byte
	for range denialBurst + 10 {
		m3 := evidenceOf(t, h, d)
		if replayed == nil {
			replayed = m3
		}
		from("[2001:db8:1::1]:1", m3)
	}
	before := len(l.events())
	from("192.0.2.1:1", replayed)
	from("192.0.2.1:1", evidenceOf(t, h, d))
	events := l.events()[before:]
	if len(events) != 1 || events[0].Detail["remote"] != "192.0.2.1:1" || !strings.HasPrefix(events[0].Detail["unrecorded"], "10 denials since") {
		t.Errorf("the device's own denial left %+v, want one record that tells of 10 others", events)
	}
}

// TestManyNetworksHideNoCount: who has enough networks can use up the pace of a device in all of them, one does not; what
// the device was denied is counted all the same. Where it has proven a boot, it is recorded.
func TestManyNetworksHideNoCount(t *testing.T) {
	now := time.Now()
	for _, c := range []struct {
		networks int
		home     string
		want     bool
	}{{networks: 1, want: true}, {networks: 2, want: true}, {networks: 3}, {networks: 3, home: "192.0.2.1/32", want: true}, {networks: 3, home: "192.0.2.2/32"}} {
		q, d := newQuiet(), store.Device{ID: "d", Confirmed: store.Status{Network: c.home}}
		for i := range c.networks * 256 {
			for range 4 {
				q.allow(denials, d, fmt.Sprintf("203.0.%d.%d:1", i>>8, i&0xff), now)
			}
		}
		q.unrecorded.drain()
		if got := q.allow(denials, d, "192.0.2.1:1", now); got != c.want {
			t.Errorf("%+v: after denials from that many networks /24 the device's own is recorded: %t", c, got)
		}
		if got := q.unrecorded.take(unrecorded{"d", denials}); (got.n == 1) == c.want {
			t.Errorf("%+v: %d are counted", c, got.n)
		}
	}
}

// TestNeighboursTakeNoRelease has two neighbours of a device, in its /24 or /48, ask in its name without a pause. In the network
// in which it has proven its last boot it gets a release all the same, and no more of them than before.
func TestNeighboursTakeNoRelease(t *testing.T) {
	for name, c := range map[string]struct {
		home, device string
		neighbours   []string
	}{
		"IPv4": {"198.51.100.20/32", "198.51.100.20:1", []string{"198.51.100.7:1", "198.51.100.8:1"}},
		"IPv6": {"2001:db8:1:300::/64", "[2001:db8:1:300::1]:1", []string{"[2001:db8:1:100::1]:1", "[2001:db8:1:200::1]:1"}},
	} {
		t.Run(name, func(t *testing.T) {
			q, now := newQuiet(), time.Now()
			d := store.Device{ID: "d", Confirmed: store.Status{Network: c.home}}
			got := 0
			for range 3600 {
				now = now.Add(time.Second)
				for range 2 {
					for _, n := range c.neighbours {
						q.allow(releases, d, n, now)
					}
				}
				if q.allow(releases, d, c.device, now) {
					got++
				}
			}
			if want := releaseBurst + 3600*releaseRate; float64(got) < want-1 || float64(got) > want+1 {
				t.Errorf("%d releases in an hour, want %v", got, want)
			}
		})
	}
}

// TestWhatWasDroppedIsTold sends more than is recorded and stops: what was dropped is in the audit log all the same,
// with its number and since when, in a bounded number of records.
func TestWhatWasDroppedIsTold(t *testing.T) {
	l := newBareLab(t)
	l.t = t
	d, h := l.softDevice(t), l.server.Devices()
	l.server.appraisers.parse = denyAll
	for range denialBurst + 5 {
		send(h, wire.PathEvidence, evidenceOf(t, h, d))
	}
	before := len(l.events())
	l.server.keepHouse(t.Context())
	l.server.keepHouse(t.Context())
	events := l.events()[before:]
	if len(events) != 1 || events[0].Kind != "unrecorded" || events[0].Device != d.ID() || !strings.HasPrefix(events[0].Detail["denials"], "5 since ") {
		t.Fatalf("told %+v, want one record of 5 denials", events)
	}
	q := &l.server.quiet.unrecorded
	now := time.Date(2026, 3, 1, 12, 0, 0, 0, time.UTC)
	for i := range 1000 {
		q.add(unrecorded{fmt.Sprintf("%064x", i), reports}, count{2, now.Add(time.Duration(i) * time.Second)})
		q.add(unrecorded{fmt.Sprintf("%064x", 7), denials}, count{1, now})
	}
	before = len(l.events())
	l.server.tell(t.Context())
	events = l.events()[before:]
	if len(events) != maxTold+1 {
		t.Fatalf("%d records for 1000 devices, want %d", len(events), maxTold+1)
	}
	want := map[string]string{"reports": "2 since 2026-03-01T12:00:07Z", "denials": "1000 since 2026-03-01T12:00:00Z"}
	if diff := cmp.Diff(want, events[0].Detail); diff != "" {
		t.Errorf("the device with the most (-want +got):\n%s", diff)
	}
	want = map[string]string{"devices": "968", "reports": "1936 since 2026-03-01T12:00:32Z"}
	if diff := cmp.Diff(want, events[maxTold].Detail); diff != "" {
		t.Errorf("all others (-want +got):\n%s", diff)
	}
	// A store that does not answer loses no count.
	q.add(unrecorded{d.ID(), releases}, count{3, now})
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	l.server.tell(ctx)
	if got := q.take(unrecorded{d.ID(), releases}); got.n != 3 {
		t.Errorf("after a failure %d are counted, want 3", got.n)
	}
}

func TestTallyIsBounded(t *testing.T) {
	var q tally[int]
	for i := range maxBuckets + 10 {
		q.add(i+1, count{1, time.Unix(1, 0)})
	}
	all := q.drain()
	if len(all) != maxBuckets+1 || all[0].n != 10 {
		t.Errorf("%d keys, %d of them others; want %d and 10", len(all), all[0].n, maxBuckets+1)
	}
}

// TestStrangersFromOneCustomer invents keys in all networks of a /48 after a box was plugged in elsewhere.
func TestStrangersFromOneCustomer(t *testing.T) {
	var s strangers
	s.add(stranger{Time: time.Unix(1, 0), EK: "box", Remote: "192.0.2.1:1"})
	for i := range 10 * maxStrangers {
		s.add(stranger{Time: time.Unix(2, 0), EK: fmt.Sprint(i), Remote: fmt.Sprintf("[2001:db8:1:%x::1]:1", i)})
	}
	list := s.list()
	if len(list) != maxStrangers || list[0].EK != "box" || list[maxStrangers-1].EK != fmt.Sprint(10*maxStrangers-1) {
		t.Errorf("%d on the list, from %q to %q; want %d, with the box and the newest", len(list), list[0].EK, list[len(list)-1].EK, maxStrangers)
	}
}

// TestPaceOfADevice asks in many networks for one device, then for another: the first has no more buckets than tokens,
// what one network is refused costs the device nothing, and the other has all of its own.
func TestPaceOfADevice(t *testing.T) {
	now := time.Unix(1000, 0)
	p := newPace(1.0/60, 5, 4)
	count := func(device string, networks, each int) (n int) {
		for i := range networks {
			for range each {
				if p.allow(device, network(fmt.Sprintf("10.%d.%d.1:1", i>>8, i&0xff)), now) {
					n++
				}
			}
		}
		return n
	}
	if n := count("a", 1, 1000); n != 5 {
		t.Errorf("%d in one network, want 5", n)
	}
	if n := count("a", 1000, 1); n != 15 {
		t.Errorf("%d more in others, want 15", n)
	}
	if n := len(p.each[0].buckets); n != 16 {
		t.Errorf("%d buckets, want 16", n)
	}
	if n := count("b", 1, 10); n != 5 {
		t.Errorf("another device has %d, want 5", n)
	}
}

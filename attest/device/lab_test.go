package device_test

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"sync"
	"testing"
	"time"

	"github.com/google/go-tpm/tpm2"

	"github.com/sealboot/sealboot/attest/device"
	"github.com/sealboot/sealboot/attest/verify"
	"github.com/sealboot/sealboot/attest/wire"
	"github.com/sealboot/sealboot/measure"
	"github.com/sealboot/sealboot/measure/event"
	"github.com/sealboot/sealboot/measure/fwlog"
	"github.com/sealboot/sealboot/measure/tpm/tpmtest"
)

var banksBoth = []tpm2.TPMAlgID{tpm2.TPMAlgSHA256, tpm2.TPMAlgSHA384}

func newKey(t testing.TB) *ecdsa.PrivateKey {
	t.Helper()
	k, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	return k
}

// machine is a computer: a TPM, firmware that has measured what OVMF measures, and a loader.
type machine struct {
	*tpmtest.TPM
	rec      *measure.Recorder
	firmware []byte
}

// start turns a machine on; the loader has not measured anything yet.
func start(t testing.TB, opts tpmtest.Options) *machine {
	t.Helper()
	m := &machine{TPM: tpmtest.Start(t, opts)}
	m.bootFirmware(t)
	return m
}

func (m *machine) bootFirmware(t testing.TB) {
	t.Helper()
	var err error
	if m.firmware, err = os.ReadFile("../../measure/fwlog/testdata/ovmf-uki.bin"); err != nil {
		t.Fatal(err)
	}
	log, err := fwlog.Parse(m.firmware)
	if err != nil {
		t.Fatal(err)
	}
	if m.rec, err = measure.NewRecorder(m.TPM.TPM); err != nil {
		t.Fatal(err)
	}
	for _, e := range log.Events {
		if !e.Extends() {
			continue
		}
		digests := map[tpm2.TPMAlgID][]byte{}
		for _, bank := range m.rec.Banks() {
			digests[bank] = e.Digests[bank]
		}
		if err := m.Extend(context.Background(), e.PCR, digests); err != nil {
			t.Fatal(err)
		}
	}
}

func digestOf(s string) string { sum := sha256.Sum256([]byte(s)); return hex.EncodeToString(sum[:]) }

// measureImage does what the loader does before it attests.
func (m *machine) measureImage(t testing.TB) {
	t.Helper()
	records, err := event.Descriptor{Kind: event.KindLinux, Artifacts: []event.Artifact{
		{Role: event.RoleKernel, SHA256: digestOf("kernel"), Size: 6},
		{Role: event.RoleCmdline, SHA256: digestOf("cmdline"), Size: 7},
	}}.Records()
	if err != nil {
		t.Fatal(err)
	}
	for _, r := range records {
		m.record(t, event.PCRImage, r)
	}
	m.record(t, event.PCRAuthority, event.Record{Type: event.TypeSiteConfig, SHA256: digestOf("site"), Size: 4})
}

func (m *machine) record(t testing.TB, index int, r event.Record) {
	t.Helper()
	if err := m.rec.Extend(context.Background(), index, r); err != nil {
		t.Fatal(err)
	}
}

func (m *machine) logs() device.Logs { return device.Logs{Firmware: m.firmware, Events: m.rec.Log()} }

// extendRaw measures something that no log knows.
func (m *machine) extendRaw(t testing.TB, index int) {
	t.Helper()
	digests := map[tpm2.TPMAlgID][]byte{}
	for _, bank := range m.rec.Banks() {
		h, err := bank.Hash()
		if err != nil {
			t.Fatal(err)
		}
		digests[bank] = make([]byte, h.Size())
	}
	if err := m.Extend(context.Background(), index, digests); err != nil {
		t.Fatal(err)
	}
}

// site is an attestd without a store: everything is claimed once, in memory.
type site struct {
	verify.Site
	server, release *ecdsa.PrivateKey
	srv             *httptest.Server
	now             func() time.Time
	appraise        verify.Appraiser
	secrets         wire.Secrets

	mu       sync.Mutex
	claimed  map[[32]byte]bool
	acks     map[string][]byte
	acked    []string
	releases int
	verdict  *verify.Verdict
	sent     map[string][]byte // the last answer to each path
	received map[string][]byte
	change   func(path string, answer []byte) []byte // a man in the middle
}

func newSite(t testing.TB, name string) *site {
	t.Helper()
	s := &site{
		server: newKey(t), release: newKey(t), now: time.Now, claimed: map[[32]byte]bool{}, acks: map[string][]byte{},
		sent: map[string][]byte{}, received: map[string][]byte{},
		appraise: func(*verify.Verified) []wire.Reason { return nil },
		secrets: wire.Secrets{
			Version: wire.Version, SealKey: []byte("0123456789abcdef0123456789abcdef"), FirstBoot: true,
			AgentCertificate: []byte("CERT"), SiteCA: []byte("CA"), Extra: map[string][]byte{"token": []byte("t")},
		},
	}
	s.Site = verify.Site{Name: name, ReleaseKey: &s.release.PublicKey}
	if _, err := rand.Read(s.CookieKey[:]); err != nil {
		t.Fatal(err)
	}
	s.srv = httptest.NewTLSServer(http.HandlerFunc(s.serve))
	t.Cleanup(s.srv.Close)
	return s
}

// client is a loader on a machine, configured for this site.
func (s *site) client(m *machine) *device.Client {
	return &device.Client{
		TPM: m.TPM.TPM, HTTP: s.srv.Client(), URL: s.srv.URL, Site: s.Name, ServerKey: &s.server.PublicKey,
		ReleaseKey: &s.release.PublicKey, Loader: "test",
	}
}

func (s *site) serve(w http.ResponseWriter, r *http.Request) {
	s.mu.Lock()
	defer s.mu.Unlock()
	body, err := io.ReadAll(http.MaxBytesReader(w, r.Body, wire.MaxEvidence))
	if err != nil {
		http.Error(w, err.Error(), http.StatusBadRequest)
		return
	}
	s.received[r.URL.Path] = body
	answer, status := s.answer(r.URL.Path, body)
	if status == http.StatusOK {
		s.sent[r.URL.Path] = answer
	}
	if s.change != nil {
		answer = s.change(r.URL.Path, answer)
	}
	w.Header().Set("Content-Type", wire.ContentType)
	w.WriteHeader(status)
	w.Write(answer) //nolint:errcheck // the client sees a short body
}

func (s *site) answer(path string, body []byte) ([]byte, int) {
	deny := func(code wire.Code, reasons ...wire.Reason) ([]byte, int) {
		return wire.NewFailure(code, "", reasons), http.StatusForbidden
	}
	switch path {
	case wire.PathHello:
		var h wire.HelloRequest
		if err := wire.Unmarshal(body, &h); err != nil {
			return deny(wire.CodeMalformed)
		}
		answer, err := wire.Sign(s.server, wire.DomainHello, wire.HashMessage(body),
			&wire.Hello{Version: wire.Version, Nonce: h.Nonce, Time: s.now().Unix(), HealthyVersion: 7})
		if err != nil {
			return nil, http.StatusInternalServerError
		}
		return answer, http.StatusOK
	case wire.PathChallenge:
		m2, _, err := s.Challenge(s.now(), body, s.server)
		if err != nil {
			return deny(wire.CodeMalformed, wire.Reason{Code: wire.CodeMalformed, Detail: err.Error()})
		}
		return m2, http.StatusOK
	case wire.PathEvidence:
		return s.evidence(body)
	case wire.PathAck:
		var a wire.Ack
		if err := wire.Unmarshal(body, &a); err != nil || !a.Matches(s.acks[a.Decision]) {
			return deny(wire.CodeMalformed)
		}
		s.acked = append(s.acked, a.Decision)
		return []byte("{}"), http.StatusOK
	case wire.PathReport:
		return []byte("{}"), http.StatusOK
	}
	return nil, http.StatusNotFound
}

func (s *site) evidence(body []byte) ([]byte, int) {
	v := s.Judge(s.now(), body, s.appraise)
	s.verdict = v
	if v.Claim != nil {
		if s.claimed[*v.Claim] {
			v.Deny(wire.Reason{Code: wire.CodeReplayed})
		}
		s.claimed[*v.Claim] = true
	}
	if !v.Allowed() {
		return wire.NewFailure(v.Reasons[0].Code, "d0", v.Reasons), http.StatusForbidden
	}
	s.releases++
	decision := fmt.Sprintf("d%d", s.releases)
	grant := verify.Grant{Decision: decision, ReleaseKey: s.release, ServerKey: s.server}
	if v.Verified.Device.Phase == wire.PhaseRenew {
		grant.AgentCertificate = []byte("CERT2")
	} else {
		grant.Secrets = &s.secrets
	}
	m4, mac, err := verify.NewRelease(v, grant)
	if err != nil {
		return []byte(err.Error()), http.StatusInternalServerError
	}
	s.acks[decision] = mac
	return m4, http.StatusOK
}

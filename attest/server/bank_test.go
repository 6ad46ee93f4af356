package server

import (
	"crypto/sha256"
	"crypto/sha512"
	"encoding/binary"
	"encoding/hex"
	"io"
	"net"
	"strings"
	"testing"

	"github.com/google/go-tpm/tpm2"

	"github.com/sealboot/sealboot/attest/device"
	"github.com/sealboot/sealboot/attest/keys"
	"github.com/sealboot/sealboot/attest/policy"
	"github.com/sealboot/sealboot/attest/store"
	"github.com/sealboot/sealboot/attest/verify"
	"github.com/sealboot/sealboot/attest/wire"
	"github.com/sealboot/sealboot/measure"
	"github.com/sealboot/sealboot/measure/event"
	"github.com/sealboot/sealboot/measure/fwlog"
	"github.com/sealboot/sealboot/measure/pcr"
	"github.com/sealboot/sealboot/measure/tpm"
	"github.com/sealboot/sealboot/measure/tpm/tpmtest"
)

// TestUnextendedBank has a machine whose firmware extends SHA-256 alone, although the TPM's SHA-384 bank is active. Its
// thief boots an OS of his own, extends what another model would have measured into that bank, and says that it is the
// only one. The quote is genuine, the log explains it, and nothing of it has happened.
func TestUnextendedBank(t *testing.T) {
	l := newLabWith(t, func(*Server) {})
	m := &machine{tpm: tpmtest.Start(t, tpmtest.Options{Banks: []tpm2.TPMAlgID{tpm2.TPMAlgSHA256, tpm2.TPMAlgSHA384}})}
	m.Client = l.clientFor(m)
	l.enrol(m)
	l.addDocument(policy.DefaultRules("rules", policy.RootHardware))
	image, err := policy.NewImage("os-7", "", 7, bootImage, []tpm2.TPMAlgID{tpm2.TPMAlgSHA256, tpm2.TPMAlgSHA384})
	if err != nil {
		t.Fatal(err)
	}
	l.addDocument(image)
	l.addDocument(knownLoader())
	l.addDocument(otherModel())

	m.Client.TPM = onlySHA384(t, m.tpm)
	if _, err := m.Boot(t.Context(), m.forge(t)); !denied(err, wire.CodePolicy) || !strings.Contains(err.Error(), "sha384") {
		t.Errorf("an OS that booted nothing: %v; want a denial for the bank", err)
	}
}

// digests are those of a text, in the banks that a document of another model has.
func digests(text string) policy.Digests {
	d := policy.Digests{}
	for _, bank := range []tpm2.TPMAlgID{tpm2.TPMAlgSHA256, tpm2.TPMAlgSHA384} {
		sum, err := pcr.Digest(bank, []byte(text))
		if err != nil {
			panic(err)
		}
		d[pcr.BankName(bank)] = hex.EncodeToString(sum)
	}
	return d
}

func knownLoader() *policy.Loader {
	return &policy.Loader{Header: policy.Header{Version: 1, Kind: policy.KindLoader, Name: "loader"},
		PCR4: []policy.Digests{digests("loader")}, SiteConfig: strings.Repeat("33", 32), ReleaseKey: "000b" + strings.Repeat("33", 32)}
}

// otherModel is a platform whose firmware extends both banks.
func otherModel() *policy.Profile {
	p := &policy.Profile{Header: policy.Header{Version: 1, Kind: policy.KindProfile, Name: "server"}, RootOfTrust: policy.RootHardware}
	for _, index := range []int{0, 2, 4, 7} {
		e := policy.ProfileEvent{Digests: []policy.Digests{digests("firmware")}}
		if index == 4 {
			e = policy.ProfileEvent{Loader: true}
		}
		p.Rules = append(p.Rules, policy.PCRRule{PCR: index, Match: policy.MatchSequence, Events: []policy.ProfileEvent{e}})
	}
	return p
}

// forge extends the SHA-384 bank as the other model, its loader and the image would have, and returns logs that say so.
func (m *machine) forge(t *testing.T) device.Logs {
	t.Helper()
	header := append(make([]byte, 24), "Spec ID Event03\x00"...)
	header = append(header, 0, 0, 0, 0, 0, 2, 0, 2, 1, 0, 0, 0, 0x0c, 0, 48, 0, 0)
	log := binary.LittleEndian.AppendUint32(make([]byte, 4), uint32(fwlog.EventNoAction))
	log = append(log, make([]byte, 20)...)
	log = binary.LittleEndian.AppendUint32(log, uint32(len(header)-24))
	log = append(log, header[24:]...)
	for _, index := range []int{0, 2, 4, 7} {
		text := "firmware"
		if index == 4 {
			text = "loader"
		}
		sum := sha512.Sum384([]byte(text))
		log = binary.LittleEndian.AppendUint32(log, uint32(index))
		log = binary.LittleEndian.AppendUint32(log, uint32(fwlog.EventEFIBootServicesApp))
		log = append(log, 1, 0, 0, 0, 0x0c, 0)
		log = append(append(log, sum[:]...), 0, 0, 0, 0)
		_, err := tpm2.PCRExtend{
			PCRHandle: tpm2.AuthHandle{Handle: tpm2.TPMHandle(index), Auth: tpm2.PasswordAuth(nil)},
			Digests:   tpm2.TPMLDigestValues{Digests: []tpm2.TPMTHA{{HashAlg: tpm2.TPMAlgSHA384, Digest: sum[:]}}},
		}.Execute(m.TPM)
		if err != nil {
			t.Fatal(err)
		}
	}
	records, err := bootImage.Records()
	if err != nil {
		t.Fatal(err)
	}
	if m.recorder, err = measure.NewRecorder(m.TPM); err != nil {
		t.Fatal(err)
	}
	sum := strings.Repeat("33", 32)
	authority := []event.Record{
		{Type: event.TypeSiteConfig, SHA256: sum, Size: 1}, {Type: event.TypeProvenance, Name: "oci", SHA256: sum, Size: 1},
		{Type: event.TypeReleaseKey, Detail: map[string]string{"name": "000b" + sum}}, {Type: event.TypeClock, Name: "attestd"}, floorRecord("7"),
	}
	for i, r := range append(records, authority...) {
		index := event.PCRImage
		if i >= len(records) {
			index = event.PCRAuthority
		}
		if err := m.recorder.Extend(t.Context(), index, r); err != nil {
			t.Fatal(err)
		}
	}
	return device.Logs{Firmware: log, Events: m.recorder.Log()}
}

// onlySHA384 connects to a TPM that seems to have no SHA-256 bank.
func onlySHA384(t *testing.T, tp *tpmtest.TPM) *tpm.TPM {
	t.Helper()
	if err := tp.Close(); err != nil {
		t.Fatal(err)
	}
	conn, err := net.Dial("unix", strings.TrimPrefix(tp.Addr, "unix:"))
	if err != nil {
		t.Fatal(err)
	}
	c := tpm.New(tp.Addr, &liar{ReadWriteCloser: conn})
	t.Cleanup(func() { c.Close() })
	return c
}

// liar takes the SHA-256 bank out of what a TPM says of its banks.
type liar struct {
	io.ReadWriteCloser
	banks bool // the next answer tells the banks
}

func (l *liar) Write(command []byte) (int, error) {
	l.banks = len(command) >= 14 && binary.BigEndian.Uint32(command[6:]) == uint32(tpm2.TPMCCGetCapability) &&
		binary.BigEndian.Uint32(command[10:]) == uint32(tpm2.TPMCapPCRs)
	return l.ReadWriteCloser.Write(command)
}

func (l *liar) Read(p []byte) (int, error) {
	n, err := l.ReadWriteCloser.Read(p)
	const header = 10 + 1 + 4 + 4 // of the answer, then bank, size of the bitmap, bitmap
	for at := header; l.banks && at+6 <= n; at += 6 {
		if binary.BigEndian.Uint16(p[at:]) == uint16(tpm2.TPMAlgSHA256) {
			clear(p[at+3 : at+6])
		}
	}
	return n, err
}

// TestRenewalTells: the platform and the bank of a renewal are held to what the device has proven, as those of a boot are.
func TestRenewalTells(t *testing.T) {
	v := &verify.Verified{Device: &wire.Device{Phase: wire.PhaseRenew}, ImagePCR: event.PCRImage, AuthorityPCR: event.PCRAuthority,
		PCRs: keys.PCRs{Bank: tpm2.TPMAlgSHA256}}
	for _, index := range []int{0, 2, 4, 7} {
		text := "firmware"
		if index == 4 {
			text = "loader"
		}
		sum := sha256.Sum256([]byte(text))
		v.PCRs.Index, v.PCRs.Values = append(v.PCRs.Index, index), append(v.PCRs.Values, sum[:])
		v.Firmware = append(v.Firmware, fwlog.Event{PCR: index, Digests: map[tpm2.TPMAlgID][]byte{tpm2.TPMAlgSHA256: sum[:]}})
	}
	var docs []store.Document
	for _, d := range []policy.Document{policy.DefaultRules("rules", policy.RootHardware), otherModel(), knownLoader()} {
		raw, err := policy.Marshal(d)
		if err != nil {
			t.Fatal(err)
		}
		docs = append(docs, store.Document{Body: raw})
	}
	set, err := parseDocuments(docs)
	if err != nil {
		t.Fatal(err)
	}
	proven := set.Appraise(v, policy.Device{}, policy.History{}).Proven
	if proven.RootOfTrust != policy.RootHardware.Strength() || proven.Bank != tpm2.TPMAlgSHA256 {
		t.Errorf("proven %+v", proven)
	}
}

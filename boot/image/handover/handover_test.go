package handover

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/sealboot/sealboot/boot/image/cpio"
)

func full() *Content {
	return &Content{
		EventLog: []byte("cel"), FirmwareLog: []byte("bios"), Attestation: []byte("{}"), SealKey: []byte("seal"),
		AgentCert: []byte("crt"), AgentApproval: []byte("appr"), SiteCA: []byte("ca"),
		Secrets: map[string][]byte{"../../init": []byte("evil"), "b": {0xff}},
	}
}

func list(t *testing.T, c *Content) []string {
	t.Helper()
	var buf bytes.Buffer
	if err := c.Write(&buf); err != nil {
		t.Fatal(err)
	}
	if buf.Len()%512 != 0 {
		t.Errorf("archive of %d bytes", buf.Len())
	}
	var out []string
	r := cpio.NewReader(&buf)
	for {
		h, err := r.Next()
		if err == io.EOF {
			return out
		}
		if err != nil {
			t.Fatal(err)
		}
		body, err := io.ReadAll(r)
		if err != nil {
			t.Fatal(err)
		}
		out = append(out, strings.TrimSpace(fmt.Sprintf("%o %s %s", h.Mode, h.Name, body)))
	}
}

func TestWrite(t *testing.T) {
	const secrets = `{"../../init":"ZXZpbA==","b":"/w=="}`
	if diff := cmp.Diff([]string{
		"40700 .extra",
		"40700 .extra/sealboot",
		"100400 .extra/sealboot/eventlog.cel cel",
		"100400 .extra/sealboot/binary_bios_measurements bios",
		"100400 .extra/sealboot/attestation.json {}",
		"100400 .extra/sealboot/seal.key seal",
		"100400 .extra/sealboot/agent.crt crt",
		"100400 .extra/sealboot/agent.approval appr",
		"100400 .extra/sealboot/site-ca.crt ca",
		"100400 .extra/sealboot/secrets.json " + secrets,
		"40700 .extra/system_credentials",
		"100400 .extra/system_credentials/sealboot.seal-key.cred seal",
		"100400 .extra/system_credentials/sealboot.secrets.cred " + secrets,
	}, list(t, full())); diff != "" {
		t.Error(diff)
	}
	if diff := cmp.Diff([]string{"40700 .extra", "40700 .extra/sealboot", "100400 .extra/sealboot/eventlog.cel cel"},
		list(t, &Content{EventLog: []byte("cel")})); diff != "" {
		t.Error(diff)
	}
	var decoded map[string][]byte
	if err := json.Unmarshal([]byte(secrets), &decoded); err != nil || !cmp.Equal(decoded, full().Secrets) {
		t.Errorf("secrets decode to %q, %v", decoded, err)
	}
}

func TestLimit(t *testing.T) {
	for size, want := range map[int]string{maxTotal - 1: "", maxTotal: "", maxTotal + 1: "allowed are 67108864"} {
		err := (&Content{EventLog: make([]byte, size-1), SiteCA: []byte("x")}).Write(io.Discard)
		if want == "" && err != nil || want != "" && (err == nil || !strings.Contains(err.Error(), want)) {
			t.Errorf("%d bytes: %v", size, err)
		}
	}
}

// TestNoCopies looks for the secrets in every buffer that was written out.
func TestNoCopies(t *testing.T) {
	var seen [][]byte
	c := &Content{SealKey: []byte("a very secret seal key")}
	err := c.Write(writerFunc(func(p []byte) (int, error) {
		seen = append(seen, p) // kept, which io.Writer forbids: it is the buffer itself
		return len(p), nil
	}))
	if err != nil {
		t.Fatal(err)
	}
	for _, p := range seen {
		if bytes.Contains(p, c.SealKey) {
			t.Error("the buffer still holds the seal key")
		}
	}
	broken := errors.New("disk full")
	seen = nil
	err = c.Write(writerFunc(func(p []byte) (int, error) { seen = append(seen, p); return 0, broken }))
	if !errors.Is(err, broken) || len(seen) == 0 || bytes.Contains(seen[0], c.SealKey) {
		t.Errorf("after %v the buffer still holds the seal key", err)
	}
}

type writerFunc func([]byte) (int, error)

func (f writerFunc) Write(p []byte) (int, error) { return f(p) }

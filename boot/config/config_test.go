package config_test

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/base64"
	"encoding/json"
	"encoding/pem"
	"errors"
	"flag"
	"fmt"
	"io/fs"
	"math/big"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/rogpeppe/go-internal/txtar"

	"github.com/sealboot/sealboot/boot/config"
	"github.com/sealboot/sealboot/measure/strict"
)

var update = flag.Bool("update", false, "rewrite the golden errors")

// TestErrors reads every case of a txtar file: each is a JSON file and the
// error that it must give.
func TestErrors(t *testing.T) {
	keys := strings.NewReplacer(
		"$KEY1", publicKey(t), "$KEY2", publicKey(t), "$CA", jsonString(certificate(t)),
		"$LONG", strings.Repeat("a", 3000), "$BADUTF8", "\xff")
	parse := map[string]func([]byte) error{
		"site": func(b []byte) error { _, err := config.ParseSite(b); return err },
		"host": func(b []byte) error { _, err := config.ParseHost(b); return err },
	}
	for kind, parse := range parse {
		t.Run(kind, func(t *testing.T) {
			path := filepath.Join("testdata", kind+"-errors.txt")
			cases, err := txtar.ParseFile(path)
			if err != nil {
				t.Fatal(err)
			}
			for i := 0; i+1 < len(cases.Files); i += 2 {
				in, want := cases.Files[i], &cases.Files[i+1]
				got := "ok\n"
				if err := parse([]byte(keys.Replace(string(in.Data)))); err != nil {
					got = err.Error() + "\n"
				}
				if *update {
					want.Data = []byte(got)
				}
				if d := cmp.Diff(string(want.Data), got); d != "" {
					t.Errorf("%s: error (-want +got):\n%s", in.Name, d)
				}
			}
			if *update {
				if err := os.WriteFile(path, txtar.Format(cases), 0o644); err != nil {
					t.Fatal(err)
				}
			}
		})
	}
}

// TestVersions: a newer config is refused by that word, whatever else is in it.
func TestVersions(t *testing.T) {
	for _, tc := range []struct {
		text  string
		newer bool
	}{{`{"version":2,"tower":"x"}`, true}, {`{"version":1,"tower":"x"}`, false}} {
		_, site := config.ParseSite([]byte(tc.text))
		_, host := config.ParseHost([]byte(tc.text))
		for kind, err := range map[string]error{"site": site, "host": host} {
			if err == nil || errors.Is(err, strict.ErrNewer) != tc.newer {
				t.Errorf("%s config %s: %v", kind, tc.text, err)
			}
		}
	}
	if h, err := config.ParseHost([]byte(`{"version":1}`)); err != nil || h.Version != 1 {
		t.Errorf("version 1: %+v, %v", h, err)
	}
}

func TestSiteDefaults(t *testing.T) {
	s, err := config.ParseSite([]byte(`{"site":"s","sources":[{"type":"media","ref":"v1","keys":["` + publicKey(t) + `"]}]}`))
	if err != nil {
		t.Fatal(err)
	}
	if s.PCRs != (config.PCRs{Image: 12, Authority: 13}) || s.Clock != "prefer" || s.End != "reboot" || s.Rounds != 5 || s.Sources[0].Threshold != 1 {
		t.Errorf("defaults: %+v", s)
	}
}

func TestSiteRoundTrip(t *testing.T) {
	key := make([][]byte, 2)
	for i := range key {
		key[i], _ = base64.StdEncoding.DecodeString(publicKey(t))
	}
	s := &config.Site{
		Name:       "harbour-7",
		Attestd:    &config.Attestd{URL: "https://tower:8443", CA: certificate(t)},
		ServerKey:  key[0],
		ReleaseKey: key[1],
		Sources: []config.Source{
			{Type: "oci", CA: certificate(t), Ref: "registry.example:5000/os/edge:stable", Mirrors: []string{"mirror.example/os/edge"}, Keys: key, Threshold: 1},
			{Type: "tuf", Root: []byte(`{"signed":{}}`), MetadataURL: "http://tuf.example/", Target: "edge"},
			{Type: "media", Ref: "stable"},
		},
		Cmdline:   "console=ttyS0 a=<b>&c",
		BuildTime: "2026-11-01T00:00:00Z",
	}
	b, err := s.Marshal()
	if err != nil {
		t.Fatal(err)
	}
	got, err := config.ParseSite(b)
	if err != nil {
		t.Fatal(err)
	}
	again, err := got.Marshal()
	if err != nil {
		t.Fatal(err)
	}
	twice, err := config.ParseSite(again)
	if err != nil {
		t.Fatal(err)
	}
	if d := cmp.Diff(got, twice); d != "" {
		t.Errorf("read, written and read again (-first +second):\n%s", d)
	}
	if built, err := got.Built(); err != nil || !built.Equal(time.Date(2026, 11, 1, 0, 0, 0, 0, time.UTC)) {
		t.Errorf("Built() = %v, %v", built, err)
	}
}

func TestFieldErrorType(t *testing.T) {
	_, err := config.ParseHost([]byte(`{"interfaces":[{"name":"eth0"},{"name":"eth1","vlan":"7"}]}`))
	var f *config.FieldError
	if !errors.As(err, &f) || f.Path != "interfaces[1].vlan" {
		t.Errorf("errors.As(%v) = %+v; want the path interfaces[1].vlan", err, f)
	}
}

type place struct {
	name string
	raw  []byte
	err  error
}

func (p place) String() string                       { return p.name }
func (p place) Read(context.Context) ([]byte, error) { return p.raw, p.err }

func TestFindHost(t *testing.T) {
	none := place{"none", nil, fmt.Errorf("open: %w", fs.ErrNotExist)}
	broken := place{"broken", nil, errors.New("I/O error")}
	a, b := place{"a", []byte("A"), nil}, place{"b", []byte("B"), nil}
	for _, c := range []struct {
		name           string
		places         []config.Place
		raw, where     string
		wantErr, noRaw bool
	}{
		{name: "nothing", places: []config.Place{none}, noRaw: true},
		{name: "first wins", places: []config.Place{none, a, b}, raw: "A", where: "a"},
		{name: "broken ends the search", places: []config.Place{broken, a}, wantErr: true, noRaw: true},
		{name: "empty is not skipped", places: []config.Place{place{"empty", nil, nil}, a}, wantErr: true, noRaw: true},
	} {
		t.Run(c.name, func(t *testing.T) {
			raw, where, err := config.FindHost(t.Context(), c.places)
			if (err != nil) != c.wantErr || string(raw) != c.raw || where != c.where || (raw == nil) != c.noRaw {
				t.Errorf("FindHost = %q, %q, %v", raw, where, err)
			}
		})
	}
}

func TestPlaces(t *testing.T) {
	dir := t.TempDir()
	write := func(name, text string) {
		t.Helper()
		path := filepath.Join(dir, name)
		if err := errors.Join(os.MkdirAll(filepath.Dir(path), 0o755), os.WriteFile(path, []byte(text), 0o600)); err != nil {
			t.Fatal(err)
		}
	}
	mount := func(context.Context, string) (string, func() error, error) {
		return dir, func() error { return nil }, nil
	}
	read := func(p config.Place) string {
		b, err := p.Read(t.Context())
		if err != nil {
			return "error: " + strings.ReplaceAll(err.Error(), dir, "DIR")
		}
		return string(b)
	}
	if _, err := config.InEFI(dir).Read(t.Context()); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("no EFI variable: %v", err)
	}
	if got := read(config.InVolume(mount)); !strings.Contains(got, "sealboot.json") {
		t.Errorf("volume without its file: %s", got)
	}
	if _, err := config.InVolume(mount).Read(t.Context()); errors.Is(err, fs.ErrNotExist) {
		t.Error("a volume with the label but without the file was taken for no volume")
	}
	write(config.EFIVariable, "\x07\x00\x00\x00{}")
	write(filepath.Join(config.FwCfg, "raw"), `{"dns":[]}`)
	write(config.VolumeFile, `{"proxy":""}`)
	if got := read(config.InEFI(dir)); got != "{}" {
		t.Errorf("EFI: %s", got)
	}
	if got := read(config.InFwCfg(dir)); got != `{"dns":[]}` {
		t.Errorf("fw_cfg: %s", got)
	}
	if got := read(config.InVolume(mount)); got != `{"proxy":""}` {
		t.Errorf("volume: %s", got)
	}
	write(config.EFIVariable, "\x07")
	write(filepath.Join(config.FwCfg, "raw"), strings.Repeat("x", config.MaxHostSize+1))
	for _, p := range []config.Place{config.InEFI(dir), config.InFwCfg(dir)} {
		if got := read(p); !strings.HasPrefix(got, "error: ") {
			t.Errorf("%v: read %d bytes, want an error", p, len(got))
		}
	}
	outside := filepath.Join(t.TempDir(), "secret")
	if err := errors.Join(os.WriteFile(outside, []byte("secret"), 0o600), os.Remove(filepath.Join(dir, config.VolumeFile)),
		os.Symlink(outside, filepath.Join(dir, config.VolumeFile))); err != nil {
		t.Fatal(err)
	}
	if got := read(config.InVolume(mount)); !strings.HasPrefix(got, "error: ") {
		t.Errorf("a link led out of the volume: %s", got)
	}
}

func FuzzParseSite(f *testing.F) {
	f.Add([]byte(`{"site":"a","sources":[{"type":"oci","plainHTTP":true,"ref":"r/x@sha256:` + strings.Repeat("0", 64) + `"}]}`))
	f.Add([]byte(`{"site":"a","sources":[{"type":"media","ref":"v1"}],"pcrs":{"image":12,"authority":14},"end":"retry"}`))
	f.Add([]byte(`{"site":{"site":[[[[null`))
	f.Fuzz(func(t *testing.T, b []byte) {
		s, err := config.ParseSite(b)
		if err != nil {
			return
		}
		out, err := s.Marshal()
		if err != nil {
			t.Fatalf("accepted, but not when written again: %v", err)
		}
		again, err := config.ParseSite(out)
		if err != nil {
			t.Fatal(err)
		}
		if d := cmp.Diff(s.Sources, again.Sources); d != "" {
			if len(s.Sources) == len(again.Sources) {
				// Empty lists may come back as none.
				return
			}
			t.Fatal(d)
		}
	})
}

func FuzzParseHost(f *testing.F) {
	f.Add([]byte(`{}`))
	f.Add([]byte(`{"interfaces":[{"mac":"52:54:00:12:34:56","vlan":7,"addresses":["192.0.2.1/24"],"gateways":["192.0.2.254"]}],"dns":["2001:db8::1"],"proxy":"http://p:1"}`))
	f.Fuzz(func(t *testing.T, b []byte) {
		if h, err := config.ParseHost(b); (h == nil) == (err == nil) {
			t.Fatal("want either a host config or an error")
		}
	})
}

func publicKey(t *testing.T) string {
	t.Helper()
	k, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	der, err := x509.MarshalPKIXPublicKey(k.Public())
	if err != nil {
		t.Fatal(err)
	}
	return base64.StdEncoding.EncodeToString(der)
}

func certificate(t *testing.T) string {
	t.Helper()
	k, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	c := &x509.Certificate{SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "ca"}, IsCA: true}
	der, err := x509.CreateCertificate(rand.Reader, c, c, k.Public(), k)
	if err != nil {
		t.Fatal(err)
	}
	return string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der}))
}

func jsonString(s string) string {
	b, _ := json.Marshal(s)
	return strings.Trim(string(b), `"`)
}

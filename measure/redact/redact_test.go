package redact_test

import (
	"errors"
	"fmt"
	"net/url"
	"strings"
	"testing"

	"github.com/sealboot/sealboot/measure/redact"
)

func TestText(t *testing.T) {
	for in, want := range map[string]string{
		`Get "https://b.example/x?sig=hush&e=1": EOF`:                        `Get "https://b.example/x?...": EOF`,
		`GET "https://b.example/x?sig=hush": response status code 403`:       `GET "https://b.example/x?...": response status code 403`,
		`read https://b.example/x?sig=hush: EOF`:                             `read https://b.example/x?... EOF`,
		`failed to parse Location header "/x?sig=hush hush": parse "/x":`:    `failed to parse Location header "/x?...": parse "/x":`,
		`parse "https://b.example/x?sig=\"hush\" \x7f": invalid`:             `parse "https://b.example/x?...": invalid`,
		`Get "https://hush:hush@b.example/x": EOF`:                           `Get "https://...@b.example/x": EOF`,
		`proxy http://hush@b.example:3128 is gone`:                           `proxy http://...@b.example:3128 is gone`,
		`Get "a?hush": b; Get "c?hush": d`:                                   `Get "a?...": b; Get "c?...": d`,
		`r.example/os@sha256:abc: is the server running, and this its port?`: `r.example/os@sha256:abc: is the server running, and this its port?`,
		`https://r.example/os@sha256:abc`:                                    `https://r.example/os@sha256:abc`,
		`a "b" c? "d" e`:                                                     `a "b" c? "d" e`,
		`Get "https://b.example/x?": EOF`:                                    `Get "https://b.example/x?": EOF`,
		"":                                                                   "",
	} {
		if got := redact.Text(in); got != want {
			t.Errorf("%s\nbecomes %s\nwant    %s", in, got, want)
		}
	}
}

func TestError(t *testing.T) {
	if err := redact.Error(nil); err != nil {
		t.Errorf("nil is %v", err)
	}
	plain := errors.New("plain")
	if err := redact.Error(plain); err != plain {
		t.Errorf("an error without a URL was changed: %v", err)
	}
	inner := &url.Error{Op: "Get", URL: "https://b.example/x?sig=hush", Err: plain}
	err := fmt.Errorf("fetch: %w", redact.Error(fmt.Errorf("manifest: %w", inner)))
	if want := `fetch: manifest: Get "https://b.example/x?...": plain`; err.Error() != want {
		t.Errorf("it says %q, want %q", err, want)
	}
	if !errors.Is(err, plain) {
		t.Error("the cause is lost")
	}
}

// FuzzText puts a query and a password into URLs as errors quote them.
func FuzzText(f *testing.F) {
	for _, secret := range []string{"hush", `a"b`, "a b", "a?b", `a\`, "a\x7fb", "é"} {
		f.Add(secret)
	}
	f.Fuzz(func(t *testing.T, secret string) {
		const mark = "SECRET"
		secret = mark + secret + mark
		for _, text := range []string{
			fmt.Sprintf("Get %q: EOF", "https://b.example/x?sig="+secret),
			fmt.Sprintf("fetch: failed to parse Location header %q: parse %q: no", "/x?sig="+secret, "/x?sig="+secret),
			(&url.Error{Op: "Get", URL: (&url.URL{Scheme: "https", Host: "b.example", RawQuery: url.QueryEscape(secret)}).String(), Err: errors.New("x")}).Error(),
			"read https://b.example/x?sig=" + url.QueryEscape(secret) + ": EOF",
			"https://" + url.PathEscape(secret) + "@b.example/x: EOF",
		} {
			if got := redact.Text(text); strings.Contains(got, mark) {
				t.Errorf("%s\nbecomes %s", text, got)
			}
		}
	})
}

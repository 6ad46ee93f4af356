package server

import (
	"context"
	"embed"
	"encoding/json"
	"fmt"
	"html/template"
	"net"
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"time"
	"unicode"

	"github.com/sealboot/sealboot/attest/store"
)

//go:embed web
var web embed.FS

var page = template.Must(template.New("status.html").Funcs(template.FuncMap{
	"time":  func(t time.Time) string { return t.UTC().Format("2006-01-02 15:04:05 UTC") },
	"ago":   ago,
	"short": func(s string) string { return s[:min(16, len(s))] },
	"clean": clean,
	"after": func(stage, reason string) string { return strings.TrimPrefix(reason, stage+": ") },
}).ParseFS(web, "web/status.html"))

// ago tells how long it is since t in the unit that people would use.
func ago(now, t time.Time) string {
	d := now.Sub(t)
	switch {
	case d < 2*time.Minute:
		return fmt.Sprintf("%d s ago", max(0, int(d.Seconds())))
	case d < 2*time.Hour:
		return fmt.Sprintf("%d min ago", int(d.Minutes()))
	case d < 48*time.Hour:
		return fmt.Sprintf("%d h ago", int(d.Hours()))
	}
	return t.UTC().Format("2006-01-02")
}

// Limits of one text on the page.
const (
	maxText  = 1000 // runes
	maxMarks = 2    // accents on one letter; more of them leave the line
)

// clean drops what changes how a text is read: control characters, those that reorder or hide others, heaps of
// accents, and what is too long for a table.
func clean(s string) string {
	var out strings.Builder
	runes, marks := 0, 0
	for _, r := range s {
		if unicode.IsControl(r) || unicode.Is(unicode.Cf, r) {
			continue
		}
		if !unicode.IsMark(r) {
			marks = 0
		} else if marks++; marks > maxMarks {
			continue
		}
		if runes++; runes > maxText {
			out.WriteString("...")
			break
		}
		out.WriteRune(r)
	}
	return out.String()
}

const (
	pageDevices = 200
	pageAudit   = 1000
)

// Admin shows the state of the site to its operators. It only reads. It has no authentication of its own
// and belongs on a loopback address, behind a proxy that has.
func (s *Server) Admin() http.Handler {
	mux := http.NewServeMux()
	mux.HandleFunc("GET /{$}", s.serveStatus)
	mux.HandleFunc("GET /style.css", func(w http.ResponseWriter, r *http.Request) {
		http.ServeFileFS(w, r, web, "web/style.css")
	})
	mux.HandleFunc("GET /metrics", s.serveMetrics)
	mux.HandleFunc("GET /audit", s.serveAudit)
	mux.HandleFunc("GET /audit/heads", s.serveHeads)
	mux.HandleFunc("GET /healthz", func(w http.ResponseWriter, r *http.Request) {
		if err := s.Store.Ping(r.Context()); err != nil {
			s.unavailable(w, err)
		}
	})
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		h := w.Header()
		h.Set("Content-Security-Policy", "default-src 'none'; style-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'")
		h.Set("X-Content-Type-Options", "nosniff")
		h.Set("Referrer-Policy", "no-referrer")
		h.Set("Cache-Control", "no-store")
		if !localHost(r.Host) {
			// A web page of somebody else whose name resolves to us (DNS rebinding) could read the list.
			http.Error(w, "ask for this server by an IP address or as localhost", http.StatusMisdirectedRequest)
			return
		}
		ctx, cancel := context.WithTimeout(r.Context(), handleTimeout)
		defer cancel()
		mux.ServeHTTP(w, r.WithContext(ctx))
	})
}

func localHost(host string) bool {
	if h, _, err := net.SplitHostPort(host); err == nil {
		host = h
	}
	host = strings.Trim(host, "[]")
	return host == "localhost" || net.ParseIP(host) != nil
}

func (s *Server) unavailable(w http.ResponseWriter, err error) {
	s.Log.Error("admin request failed", "err", err)
	http.Error(w, "the store does not answer", http.StatusServiceUnavailable)
}

// status is what the page shows.
type status struct {
	Site                           string
	Now                            time.Time
	Enrolled, Pending, Quarantined int64
	Devices                        []store.Device
	Next                           string // ID to continue after, "" on the last page
	Strangers                      []stranger
	Heads                          []store.Head
}

func (s *Server) serveStatus(w http.ResponseWriter, r *http.Request) {
	ctx := r.Context()
	st := status{Site: s.Site.Name, Now: s.Now(), Strangers: s.strangers.list()}
	count, err := s.Store.Count(ctx)
	if err != nil {
		s.unavailable(w, err)
		return
	}
	st.Enrolled, st.Pending, st.Quarantined = count[store.Enrolled], count[store.Pending], count[store.Quarantined]
	if st.Devices, err = s.Store.Devices(ctx, r.URL.Query().Get("after"), pageDevices); err != nil {
		s.unavailable(w, err)
		return
	}
	if len(st.Devices) == pageDevices {
		st.Next = st.Devices[pageDevices-1].ID
	}
	if st.Heads, err = s.Store.Heads(ctx); err != nil {
		s.unavailable(w, err)
		return
	}
	w.Header().Set("Content-Type", "text/html; charset=utf-8")
	if err := page.Execute(w, st); err != nil {
		s.Log.Debug("status page", "err", err) // the reader went away
	}
}

// serveAudit exports one chain as JSON lines: ?replica=NAME&after=SEQ, at most 1000 records an answer.
func (s *Server) serveAudit(w http.ResponseWriter, r *http.Request) {
	replica := r.URL.Query().Get("replica")
	if replica == "" {
		replica = s.Site.Replica
	}
	var after int64
	if text := r.URL.Query().Get("after"); text != "" {
		var err error
		if after, err = strconv.ParseInt(text, 10, 64); err != nil || after < 0 {
			http.Error(w, "after is not the number of a record", http.StatusBadRequest)
			return
		}
	}
	records, err := s.Store.Audit(r.Context(), replica, after, pageAudit)
	if err != nil {
		s.unavailable(w, err)
		return
	}
	w.Header().Set("Content-Type", "application/jsonl")
	if len(records) == pageAudit {
		w.Header().Set("Link", fmt.Sprintf(`</audit?replica=%s&after=%d>; rel="next"`, url.QueryEscape(replica), records[pageAudit-1].Seq))
	}
	e := json.NewEncoder(w)
	for _, rec := range records {
		if err := e.Encode(rec); err != nil {
			return
		}
	}
}

func (s *Server) serveHeads(w http.ResponseWriter, r *http.Request) {
	heads, err := s.Store.Heads(r.Context())
	if err != nil {
		s.unavailable(w, err)
		return
	}
	w.Header().Set("Content-Type", "application/json")
	_ = json.NewEncoder(w).Encode(heads)
}

package server

import (
	"context"
	"log/slog"
	"maps"
	"net/netip"
	"slices"
	"time"
)

// The process log goes to a disk or to a journal that forgets the oldest, and a line for each request would fill the one
// and empty the other, at the pace of who sends them. 50 lines of a kind from one network are kept, then one every two
// seconds, and ten times as many from all networks together.
const (
	logRate, logBurst = 0.5, 50
	logNetworks       = 10
	maxLogText        = 8 << 10 // bytes of one value
)

// pacedLog is a handler that writes at a pace and says what it left out: with the next record of that kind, or when
// [pacedLog.tell] is called. A kind is what the code calls it, never what was received, so that there are few.
type pacedLog struct {
	slog.Handler
	pace    *pace
	leftOut *tally[string]
}

func newPacedLog(h slog.Handler) *pacedLog {
	p := newPace(logRate, logBurst, logNetworks)
	return &pacedLog{h, &p, &tally[string]{}}
}

// Handle writes the record if there is room for one more of its kind from its network.
func (l *pacedLog) Handle(ctx context.Context, r slog.Record) error {
	kind, from := kindOf(r)
	if !l.pace.allow(kind, from, r.Time) {
		l.leftOut.add(kind, count{1, r.Time})
		return nil
	}
	out := slog.NewRecord(r.Time, r.Level, r.Message, r.PC)
	r.Attrs(func(a slog.Attr) bool {
		out.AddAttrs(bounded(a))
		return true
	})
	if c := l.leftOut.take(kind); c.n > 0 {
		out.AddAttrs(slog.String("leftOut", c.String()))
	}
	return l.Handler.Handle(ctx, out)
}

// WithAttrs returns a handler of the same pace.
func (l *pacedLog) WithAttrs(attrs []slog.Attr) slog.Handler {
	return &pacedLog{l.Handler.WithAttrs(attrs), l.pace, l.leftOut}
}

// WithGroup returns a handler of the same pace.
func (l *pacedLog) WithGroup(name string) slog.Handler {
	return &pacedLog{l.Handler.WithGroup(name), l.pace, l.leftOut}
}

// tell writes what was left out and what no later record has told.
func (l *pacedLog) tell(ctx context.Context, now time.Time) {
	left := l.leftOut.drain()
	for _, kind := range slices.Sorted(maps.Keys(left)) {
		r := slog.NewRecord(now, slog.LevelWarn, "lines left out of this log", 0)
		r.AddAttrs(slog.String("kind", kind), slog.String("leftOut", left[kind].String()))
		_ = l.Handler.Handle(ctx, r) // where the log cannot be written, this cannot either
	}
}

// kindOf returns the kind of a record and the network that caused it. The messages of this package are constants; a code
// is one of those that attestd answers.
func kindOf(r slog.Record) (kind string, from netip.Prefix) {
	kind = r.Message
	r.Attrs(func(a slog.Attr) bool {
		switch a.Key {
		case "remote":
			from = network(a.Value.String())
		case "code":
			kind += " " + a.Value.String()
		}
		return true
	})
	return kind, from
}

// httpLog makes one kind of what net/http says, whose messages have addresses in them.
type httpLog struct{ slog.Handler }

func (h httpLog) Handle(ctx context.Context, r slog.Record) error {
	out := slog.NewRecord(r.Time, r.Level, "net/http", r.PC)
	out.AddAttrs(slog.String("said", r.Message))
	return h.Handler.Handle(ctx, out)
}

// bounded cuts the text of an attribute.
func bounded(a slog.Attr) slog.Attr {
	v := a.Value.Resolve()
	err, isError := v.Any().(error)
	if v.Kind() != slog.KindString && !isError {
		return a
	}
	text := v.String()
	if isError && err != nil {
		text = err.Error()
	}
	if len(text) > maxLogText {
		text = text[:maxLogText] + "..."
	}
	return slog.String(a.Key, text)
}

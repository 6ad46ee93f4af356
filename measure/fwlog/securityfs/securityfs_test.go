package securityfs

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"testing"

	"github.com/sealboot/sealboot/measure/fwlog"
)

func TestReadFrom(t *testing.T) {
	dir := t.TempDir()
	write := func(name string, size int) string {
		path := filepath.Join(dir, name)
		if err := os.WriteFile(path, make([]byte, size), 0o600); err != nil {
			t.Fatal(err)
		}
		return path
	}
	if b, err := readFrom(t.Context(), write("good", fwlog.MaxSize)); err != nil || len(b) != fwlog.MaxSize {
		t.Errorf("readFrom() = %d bytes, %v", len(b), err)
	}
	for _, path := range []string{write("empty", 0), filepath.Join(dir, "missing")} {
		if _, err := readFrom(t.Context(), path); !errors.Is(err, fwlog.ErrNoLog) {
			t.Errorf("%s: error = %v; want ErrNoLog", path, err)
		}
	}
	if _, err := readFrom(t.Context(), write("long", fwlog.MaxSize+1)); err == nil {
		t.Error("read a log that is too long")
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := readFrom(ctx, write("late", 1)); !errors.Is(err, context.Canceled) {
		t.Errorf("error = %v; want Canceled", err)
	}
}

// Command probe looks at a boot from the inside: it runs in the operating system
// that the loader has started, as root, and checks what was handed over. Each
// finding is a line on standard output; the exit code is 1 when one is bad.
package main

import (
	"context"
	"encoding/base64"
	"encoding/hex"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"strings"
	"time"
)

func main() {
	ctx, cancel := context.WithTimeout(context.Background(), 2*time.Minute)
	defer cancel()
	checks := []struct {
		name string
		do   func(context.Context) (string, error)
	}{
		{"logs", replay},
		{"secrets", leaks},
		{"release", askAgain},
		{"container", container},
		{"credentials", credentials},
	}
	code := 0
	for _, c := range checks {
		found, err := c.do(ctx)
		if err != nil {
			found, code = "FAILED: "+err.Error(), 1
		}
		fmt.Printf("sealboot-demo: probe: %s: %s\n", c.name, strings.ReplaceAll(found, "\n", " "))
	}
	os.Exit(code)
}

// handover is where the loader's gifts are.
const handover = "/run/sealboot/"

// leaks looks for the seal key where no one may have put it: the kernel's
// command line, the journal, the kernel's log, and the bytes of every disk.
func leaks(ctx context.Context) (string, error) {
	key, err := os.ReadFile(handover + "seal.key")
	if err != nil {
		return "", err
	}
	if len(key) < 32 {
		return "", fmt.Errorf("the seal key has %d bytes", len(key))
	}
	shapes := [][]byte{
		key,
		[]byte(hex.EncodeToString(key)),
		[]byte(strings.ToUpper(hex.EncodeToString(key))),
		[]byte(strings.TrimRight(base64.StdEncoding.EncodeToString(key), "=")),
		[]byte(strings.TrimRight(base64.URLEncoding.EncodeToString(key), "=")),
	}
	places, err := places(ctx)
	if err != nil {
		return "", err
	}
	var searched []string
	for _, p := range places {
		n, err := search(p.content, shapes)
		if err != nil {
			return "", fmt.Errorf("%s: %w", p.name, err)
		}
		searched = append(searched, fmt.Sprintf("%s (%d bytes)", p.name, n))
	}
	// The search itself must be able to find: the handover holds the key.
	f, err := os.Open(handover + "seal.key")
	if err != nil {
		return "", err
	}
	if _, err := search(f, shapes); !errors.Is(err, errFound) {
		return "", errors.New("the search does not find the key in its own file")
	}
	return "no copy in " + strings.Join(searched, ", "), nil
}

// container starts one with the image's own runtime, pivot_root and all.
func container(ctx context.Context) (string, error) {
	out, err := exec.CommandContext(ctx, "/usr/lib/sealboot/container").CombinedOutput()
	text := strings.TrimSpace(string(out))
	if err != nil {
		return "", fmt.Errorf("%w: %s", err, text)
	}
	return text, nil
}

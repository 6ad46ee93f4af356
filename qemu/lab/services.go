package lab

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"time"

	"github.com/sealboot/sealboot/qemu/child"
)

// service is a server that the lab runs on loopback.
type service struct {
	*child.Process
	log string
}

// startService runs a server, its output in a log file, and waits until it
// accepts connections on address.
func startService(ctx context.Context, log, address string, cmd *exec.Cmd) (*service, error) {
	out, err := os.OpenFile(log, os.O_CREATE|os.O_WRONLY|os.O_APPEND, 0o600)
	if err != nil {
		return nil, err
	}
	defer out.Close()
	cmd.Stdout, cmd.Stderr = out, out
	p, err := child.Start(cmd)
	if err != nil {
		return nil, err
	}
	s := &service{p, log}
	ctx, cancel := context.WithTimeout(ctx, time.Minute)
	defer cancel()
	for {
		var d net.Dialer
		conn, err := d.DialContext(ctx, "tcp", address)
		if err == nil {
			conn.Close()
			return s, nil
		}
		select {
		case <-p.Done():
			return nil, fmt.Errorf("%s ended at once: %w: %s", filepath.Base(cmd.Path), p.Err(), lastLines(log))
		case <-ctx.Done():
			p.Kill()
			return nil, fmt.Errorf("%s does not listen on %s: %w: %s", filepath.Base(cmd.Path), address, ctx.Err(), lastLines(log))
		case <-time.After(50 * time.Millisecond):
		}
	}
}

// lastLines is the end of a log, for an error.
func lastLines(path string) string {
	b, err := os.ReadFile(path)
	if err != nil {
		return err.Error()
	}
	const keep = 800
	b = bytes.TrimSpace(b)
	if len(b) > keep {
		b = b[len(b)-keep:]
	}
	return string(b)
}

// freePort asks the kernel for a loopback port that no one uses now.
func freePort() (int, error) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return 0, err
	}
	defer l.Close()
	return l.Addr().(*net.TCPAddr).Port, nil
}

// registryConfig is docker-registry's, with its blobs in a directory.
const registryConfig = `version: 0.1
log: {level: warn}
storage:
  filesystem: {rootdirectory: %q}
  delete: {enabled: true}
http: {addr: "127.0.0.1:%d"}
`

// startRegistry runs Debian's docker-registry with its images in dir.
func startRegistry(ctx context.Context, dir string, port int) (*service, error) {
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return nil, err
	}
	config := filepath.Join(dir, "config.yml")
	if err := os.WriteFile(config, fmt.Appendf(nil, registryConfig, filepath.Join(dir, "data"), port), 0o644); err != nil {
		return nil, err
	}
	return startService(ctx, filepath.Join(dir, "log"), fmt.Sprintf("127.0.0.1:%d", port),
		exec.Command("docker-registry", "serve", config))
}

// stopGrace is how long a tool may take to clean up when a run is interrupted.
const stopGrace = 20 * time.Second

// run runs a command to its end and returns what it printed; an error carries
// the end of it.
func (l *Lab) run(ctx context.Context, dir, name string, args ...string) (string, error) {
	return l.runTelling(ctx, l.stages.line, dir, name, args...)
}

// runTelling is run, and tells each line of standard error to somebody.
func (l *Lab) runTelling(ctx context.Context, tell func(line string), dir, name string, args ...string) (string, error) {
	cmd := exec.Command(name, args...)
	cmd.Dir = dir
	return runCommand(ctx, tell, cmd)
}

func runCommand(ctx context.Context, tell func(line string), cmd *exec.Cmd) (string, error) {
	var out, diag bytes.Buffer
	cmd.Stdout = &out
	cmd.Stderr = io.MultiWriter(&diag, &lines{to: tell})
	if err := child.Run(ctx, cmd, stopGrace); err != nil {
		msg := bytes.TrimSpace(append(diag.Bytes(), out.Bytes()...))
		if len(msg) > 2000 {
			msg = msg[len(msg)-2000:]
		}
		if ctx.Err() != nil {
			msg = nil // what a program says when it is stopped explains nothing
		}
		return "", fmt.Errorf("%s: %w%s", filepath.Base(cmd.Path), err, after(": ", msg))
	}
	return out.String(), nil
}

// after puts text behind a separator, if there is text.
func after(separator string, text []byte) string {
	if len(text) == 0 {
		return ""
	}
	return separator + string(text)
}

// lines hands what is written to it on by lines.
type lines struct {
	to   func(line string)
	line []byte
}

func (l *lines) Write(b []byte) (int, error) {
	for _, c := range b {
		if c != '\n' && len(l.line) < 4096 {
			l.line = append(l.line, c)
			continue
		}
		l.to(string(l.line))
		l.line = l.line[:0]
	}
	return len(b), nil
}

// Command bench measures what following a TUF repository costs a device, and
// prints one "name value" line for each:
//
//	steady_requests  requests of a refresh when nothing has changed
//	steady_bytes     bytes of the answers' bodies in it
//	cold_bytes       the same for the first refresh
//	target_rss_mib   most memory of the client while it fetches a large target
//
// It runs the client as a process of its own, against a repository with a
// hundred targets and a delegation on the loopback interface.
package main

import (
	"context"
	"crypto"
	"flag"
	"fmt"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"sync"
	"syscall"
	"time"

	"github.com/sealboot/sealboot/boot/publish/sign"
	"github.com/sealboot/sealboot/boot/publish/tufrepo"
)

func main() {
	client := flag.String("client", "build/tuf-client", "the client to run")
	size := flag.Int64("size", 1<<30, "bytes of the large target")
	dir := flag.String("dir", "", "a directory with room for three times that; the default is a temporary one")
	flag.Parse()
	if err := run(context.Background(), *client, *dir, *size); err != nil {
		fmt.Fprintln(os.Stderr, "bench:", err)
		os.Exit(1)
	}
}

func run(ctx context.Context, client, parent string, size int64) error {
	dir, err := os.MkdirTemp(parent, "bench-tuf")
	if err != nil {
		return err
	}
	defer os.RemoveAll(dir)
	b := &bench{ctx: ctx, client: client, dir: dir}
	if err := b.publish(size); err != nil {
		return err
	}
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return err
	}
	b.url = "http://" + listener.Addr().String()
	b.files = http.FileServer(http.Dir(b.path("repo")))
	server := &http.Server{Handler: b}
	go func() { _ = server.Serve(listener) }()
	defer server.Close()
	return b.measure()
}

type bench struct {
	ctx              context.Context
	client, dir, url string
	files            http.Handler
	mu               sync.Mutex
	requests, bytes  int64
}

func (b *bench) path(name string) string { return filepath.Join(b.dir, name) }

// publish makes the repository.
func (b *bench) publish(size int64) error {
	changes := []tufrepo.Change{tufrepo.Create()}
	var keys []crypto.Signer
	for _, role := range []string{"root", "timestamp", "snapshot", "targets", "team"} {
		file := b.path(role + ".pem")
		if err := sign.Generate(file); err != nil {
			return err
		}
		key, pub, err := tufrepo.ReadKey(file)
		if err != nil {
			return err
		}
		keys = append(keys, key)
		if role == "team" {
			changes = append(changes, tufrepo.Delegate(tufrepo.Delegation{Name: role, Paths: []string{"team/*"}, Keys: []crypto.PublicKey{pub}}))
		} else {
			changes = append(changes, tufrepo.AddKey(role, pub))
		}
	}
	large, small := b.path("large"), b.path("small")
	if err := os.WriteFile(small, []byte("small"), 0o644); err != nil {
		return err
	}
	if err := os.WriteFile(large, nil, 0o644); err != nil {
		return err
	}
	if err := os.Truncate(large, size); err != nil {
		return err
	}
	for i := range 100 {
		changes = append(changes, tufrepo.AddTarget(tufrepo.Target{Name: fmt.Sprintf("os/%d/kernel", i), File: small}))
	}
	changes = append(changes, tufrepo.AddTarget(tufrepo.Target{Name: "large", File: large}))
	if err := os.Mkdir(b.path("repo"), 0o755); err != nil {
		return err
	}
	r, err := tufrepo.Open(b.ctx, b.path("repo"), tufrepo.Operator{State: b.path("state")})
	if err != nil {
		return err
	}
	defer r.Close()
	status, err := r.Apply(b.ctx, time.Now(), keys, changes...)
	if err == nil && !status.Published {
		err = fmt.Errorf("the repository lacks signatures: %v", status.Missing)
	}
	return err
}

func (b *bench) measure() error {
	for _, d := range []string{"metadata", "targets"} {
		if err := os.Mkdir(b.path(d), 0o755); err != nil {
			return err
		}
	}
	if _, err := b.run("init", filepath.Join(b.path("repo"), "metadata", "1.root.json")); err != nil {
		return err
	}
	refresh := []string{"--metadata-url", b.url + "/metadata", "refresh"}
	if _, err := b.run(refresh...); err != nil {
		return err
	}
	_, cold := b.count()
	if _, err := b.run(refresh...); err != nil {
		return err
	}
	requests, steady := b.count()
	rss, err := b.run("--metadata-url", b.url+"/metadata", "--target-name", "large",
		"--target-base-url", b.url+"/targets", "--target-dir", b.path("targets"), "download")
	if err != nil {
		return err
	}
	fmt.Printf("steady_requests %d\nsteady_bytes %d\ncold_bytes %d\ntarget_rss_mib %d\n", requests, steady, cold, rss>>10)
	return nil
}

// run runs the client and returns the most memory that it had, in KiB.
func (b *bench) run(args ...string) (int64, error) {
	cmd := exec.CommandContext(b.ctx, b.client, append([]string{"--metadata-dir", b.path("metadata")}, args...)...)
	cmd.Stderr = os.Stderr
	if err := cmd.Run(); err != nil {
		return 0, fmt.Errorf("%s %v: %w", b.client, args, err)
	}
	return cmd.ProcessState.SysUsage().(*syscall.Rusage).Maxrss, nil
}

// count returns what was sent since the last call.
func (b *bench) count() (requests, bytes int64) {
	b.mu.Lock()
	defer b.mu.Unlock()
	requests, bytes = b.requests, b.bytes
	b.requests, b.bytes = 0, 0
	return requests, bytes
}

// ServeHTTP counts requests, and bodies of metadata.
func (b *bench) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	if filepath.Dir(r.URL.Path) != "/metadata" {
		b.files.ServeHTTP(w, r)
		return
	}
	c := &counter{ResponseWriter: w}
	b.files.ServeHTTP(c, r)
	b.mu.Lock()
	defer b.mu.Unlock()
	b.requests++
	b.bytes += c.n
}

type counter struct {
	http.ResponseWriter
	n int64
}

func (c *counter) Write(p []byte) (int, error) {
	n, err := c.ResponseWriter.Write(p)
	c.n += int64(n)
	return n, err
}

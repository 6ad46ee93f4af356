package store

import (
	"context"
	"database/sql"
	"fmt"
	"os"
	"os/exec"
	"os/user"
	"path/filepath"
	"strconv"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"
)

var (
	cluster   sync.Once
	clusterAt string // socket directory, "" when there is no PostgreSQL
	clusterUp func()
	databases atomic.Int32
)

func TestMain(m *testing.M) {
	code := m.Run()
	if clusterUp != nil {
		clusterUp()
	}
	os.Exit(code)
}

// postgres returns the URL of an empty database in a cluster that this test binary started.
func postgres(t *testing.T) string {
	t.Helper()
	cluster.Do(func() { clusterAt = startCluster(t) })
	if clusterAt == "" {
		skipWithoutPostgres(t)
	}
	name := fmt.Sprintf("t%d", databases.Add(1))
	db, err := sql.Open("pgx", clusterURL("postgres"))
	if err != nil {
		t.Fatal(err)
	}
	defer db.Close()
	if _, err := db.ExecContext(t.Context(), "CREATE DATABASE "+name); err != nil {
		t.Fatal(err)
	}
	return clusterURL(name)
}

func skipWithoutPostgres(t *testing.T) {
	t.Helper()
	if os.Getenv("SEALBOOT_TEST_ALL") == "1" {
		t.Fatal("PostgreSQL is not installed")
	}
	t.Skip("PostgreSQL is not installed")
}

func clusterURL(db string) string {
	return fmt.Sprintf("postgres://sealboot@/%s?host=%s&sslmode=disable", db, clusterAt)
}

func findBinary(name string) string {
	if p, err := exec.LookPath(name); err == nil {
		return p
	}
	found, err := filepath.Glob("/usr/lib/postgresql/*/bin/" + name)
	if err != nil || len(found) == 0 {
		return ""
	}
	return found[len(found)-1]
}

// startCluster runs the PostgreSQL that most tests share.
func startCluster(t *testing.T) string {
	dir, stop := runPostgres(t, nil, "-c", "listen_addresses=")
	if dir != "" {
		clusterAt, clusterUp = dir, stop
		waitFor(t, clusterURL("postgres"))
	}
	return dir
}

// runPostgres runs initdb and postgres with these files next to its sockets, as user "no one" when the test runs as
// root, which PostgreSQL refuses to. It returns the directory, or "" when there is no PostgreSQL.
func runPostgres(t *testing.T, files map[string][]byte, options ...string) (dir string, stop func()) {
	t.Helper()
	initdb, server := findBinary("initdb"), findBinary("postgres")
	if initdb == "" || server == "" {
		return "", nil
	}
	dir, err := os.MkdirTemp("", "sealboot-pg")
	if err != nil {
		t.Fatal(err)
	}
	names := []string{dir}
	for name, data := range files {
		names = append(names, filepath.Join(dir, name))
		if err := os.WriteFile(filepath.Join(dir, name), data, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	attr := &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	if os.Getuid() == 0 {
		nobody, err := user.Lookup("nobody")
		if err != nil {
			t.Fatal(err)
		}
		uid, _ := strconv.Atoi(nobody.Uid)
		gid, _ := strconv.Atoi(nobody.Gid)
		for _, name := range names {
			if err := os.Chown(name, uid, gid); err != nil {
				t.Fatal(err)
			}
		}
		attr.Credential = &syscall.Credential{Uid: uint32(uid), Gid: uint32(gid)}
	}
	command := func(name string, args ...string) *exec.Cmd {
		c := exec.Command(name, args...)
		c.Dir, c.SysProcAttr = dir, attr
		return c
	}
	data := filepath.Join(dir, "data")
	if out, err := command(initdb, "-D", data, "-U", "sealboot", "-A", "trust", "-N").CombinedOutput(); err != nil {
		t.Fatalf("initdb: %v\n%s", err, out)
	}
	pg := command(server, append([]string{"-D", data, "-k", dir, "-c", "max_connections=200"}, options...)...)
	if err := pg.Start(); err != nil {
		t.Fatal(err)
	}
	return dir, func() {
		_ = pg.Process.Signal(syscall.SIGINT)
		_ = pg.Wait()
		os.RemoveAll(dir)
	}
}

func waitFor(t *testing.T, url string) {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	for {
		db, err := sql.Open("pgx", url)
		if err == nil {
			err = db.PingContext(ctx)
			db.Close()
		}
		if err == nil {
			return
		}
		select {
		case <-ctx.Done():
			t.Fatalf("PostgreSQL did not start: %v", err)
		case <-time.After(50 * time.Millisecond):
		}
	}
}

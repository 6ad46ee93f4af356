package tufrepo_test

import (
	"context"
	"crypto"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"testing"
	"time"

	"github.com/sealboot/sealboot/boot/publish/sign"
	"github.com/sealboot/sealboot/boot/publish/tufrepo"
)

// TestMain lets the test be the publisher that another process of it kills.
func TestMain(m *testing.M) {
	if dir := os.Getenv("SEALBOOT_TUF_PUBLISHER"); dir != "" {
		if err := publishForEver(dir); err != nil {
			fmt.Fprintln(os.Stderr, err)
		}
		os.Exit(1)
	}
	os.Exit(m.Run())
}

// publishForEver adds one target after the other with the key in dir.
func publishForEver(dir string) error {
	key, _, err := tufrepo.ReadKey(filepath.Join(dir, "key.pem"))
	if err != nil {
		return err
	}
	for n := 0; ; n++ {
		file := filepath.Join(dir, strconv.Itoa(os.Getpid()))
		content := fmt.Sprintf("%d of %d", n, os.Getpid())
		if err := os.WriteFile(file, []byte(content), 0o600); err != nil {
			return err
		}
		if err := publishOne(filepath.Join(dir, "repo"), key, tufrepo.Target{Name: content, File: file}); err != nil {
			return err
		}
	}
}

func publishOne(dir string, key crypto.Signer, target tufrepo.Target) error {
	ctx, stop := context.WithTimeout(context.Background(), time.Minute)
	defer stop()
	r, err := tufrepo.Open(ctx, dir, operator(dir))
	if err != nil {
		return err
	}
	defer r.Close()
	_, err = r.Apply(ctx, time.Now(), []crypto.Signer{key}, tufrepo.AddTarget(target))
	return err
}

// TestKilledProcesses has two processes publish at once and kills them, one after
// the other, whatever they are doing. Anyone who looks finds a whole repository, the
// lock is free, and nothing that was published is lost.
func TestKilledProcesses(t *testing.T) {
	dir := t.TempDir()
	if err := errors.Join(sign.Generate(filepath.Join(dir, "key.pem")), os.Mkdir(filepath.Join(dir, "repo"), 0o755)); err != nil {
		t.Fatal(err)
	}
	key, pub, err := tufrepo.ReadKey(filepath.Join(dir, "key.pem"))
	if err != nil {
		t.Fatal(err)
	}
	f := &fixture{t: t, dir: filepath.Join(dir, "repo")}
	changes := []tufrepo.Change{tufrepo.Create()}
	for _, role := range []string{"root", "timestamp", "snapshot", "targets"} {
		changes = append(changes, tufrepo.AddKey(role, pub))
	}
	f.publish(time.Now(), []crypto.Signer{key}, changes...)
	spawn := func() *exec.Cmd {
		cmd := exec.CommandContext(t.Context(), os.Args[0])
		cmd.Env = append(os.Environ(), "SEALBOOT_TUF_PUBLISHER="+dir)
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		return cmd
	}
	other := spawn()
	for range 12 {
		cmd := other
		other = spawn()
		before := f.targets()
		for deadline := time.Now().Add(time.Minute); f.targets() == before; { // both are at work
			if time.Now().After(deadline) {
				t.Fatal("nothing is published")
			}
		}
		time.Sleep(rand.N(20 * time.Millisecond)) // then at any moment of it
		if err := kill(cmd); err != nil {
			t.Fatal(err)
		}
		if now := f.targets(); now < before {
			t.Fatalf("%d targets after %d", now, before)
		}
	}
	if err := kill(other); err != nil {
		t.Fatal(err)
	}
	before := f.targets()
	f.publish(time.Now(), []crypto.Signer{key}, tufrepo.AddTarget(tufrepo.Target{Name: "last", File: f.file("last")}))
	if now := f.targets(); now != before+1 {
		t.Fatalf("%d targets after %d", now, before)
	}
}

// targets follows the repository as a device does and says how many there are.
func (f *fixture) targets() int {
	f.t.Helper()
	report, err := f.verify(time.Now())
	if err != nil {
		f.t.Fatal(err)
	}
	return report.Roles["targets"].Targets
}

// kill ends a process at once and waits for its end.
func kill(cmd *exec.Cmd) error {
	if err := cmd.Process.Kill(); err != nil {
		return err
	}
	if err := cmd.Wait(); cmd.ProcessState.Exited() {
		return fmt.Errorf("it had ended by itself: %w", err)
	}
	return nil
}

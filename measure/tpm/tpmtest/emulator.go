package tpmtest

import (
	"context"
	"encoding/binary"
	"io"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"sync"
	"testing"
	"time"

	"github.com/sealboot/sealboot/measure/tpm"
)

const (
	startTimeout = 30 * time.Second
	controlInit  = 2 // CMD_INIT of swtpm's control channel, swtpm_ioctls(3)
)

type emulator struct {
	tpm     *tpm.TPM
	addr    string
	control string
	stop    func()
}

// startEmulator runs swtpm over the state in dir, as a child that is killed and
// waited for when the test ends.
func startEmulator(t testing.TB, dir string, tcp bool) emulator {
	t.Helper()
	e := emulator{control: filepath.Join(dir, "control.sock")}
	server, addr := "type=unixio,path="+filepath.Join(dir, "tpm.sock"), "unix:"+filepath.Join(dir, "tpm.sock")
	if tcp {
		port := freePort(t)
		server, addr = "type=tcp,port="+port, "tcp:127.0.0.1:"+port
	}
	cmd := exec.Command("swtpm", "socket", "--tpm2", "--tpmstate", "dir="+dir,
		"--server", server, "--ctrl", "type=unixio,path="+e.control,
		"--flags", "not-need-init,startup-clear")
	logFile, err := os.Create(filepath.Join(dir, "swtpm.log"))
	if err != nil {
		t.Fatal(err)
	}
	cmd.Stdout, cmd.Stderr = logFile, logFile
	err = cmd.Start()
	logFile.Close()
	if err != nil {
		t.Fatalf("start swtpm: %v", err)
	}
	kill := sync.OnceFunc(func() {
		cmd.Process.Kill()
		cmd.Wait()
	})
	t.Cleanup(kill)
	e.addr = addr
	e.tpm = connect(t, e, logFile.Name())
	e.stop = func() {
		e.tpm.Close()
		kill()
	}
	t.Cleanup(e.stop)
	return e
}

func freePort(t testing.TB) string {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	_, port, err := net.SplitHostPort(l.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	return port
}

// connect waits until the emulator listens on both of its sockets.
func connect(t testing.TB, e emulator, log string) *tpm.TPM {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), startTimeout)
	defer cancel()
	for {
		_, err := os.Stat(e.control)
		if err == nil {
			var conn *tpm.TPM
			if conn, err = tpm.Open(ctx, e.addr); err == nil {
				startup(t, conn)
				return conn
			}
		}
		select {
		case <-ctx.Done():
			out, _ := os.ReadFile(log)
			t.Fatalf("swtpm does not answer: %v\n%s", err, out)
		case <-time.After(5 * time.Millisecond):
		}
	}
}

// controlCommand sends one command of swtpm's control protocol: a number and an
// argument of 4 bytes each, answered by a 4-byte result.
func controlCommand(t testing.TB, path string, command uint32) {
	t.Helper()
	conn, err := net.Dial("unix", path)
	if err != nil {
		t.Fatalf("swtpm control: %v", err)
	}
	defer conn.Close()
	conn.SetDeadline(time.Now().Add(startTimeout))
	if _, err := conn.Write(binary.BigEndian.AppendUint32(binary.BigEndian.AppendUint32(nil, command), 0)); err != nil {
		t.Fatalf("swtpm control: %v", err)
	}
	var result [4]byte
	if _, err := io.ReadFull(conn, result[:]); err != nil {
		t.Fatalf("swtpm control: %v", err)
	}
	if code := binary.BigEndian.Uint32(result[:]); code != 0 {
		t.Fatalf("swtpm control command %d: error %#x", command, code)
	}
}

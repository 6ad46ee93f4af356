package qemu

import (
	"bytes"
	"encoding/binary"
	"net"
	"path/filepath"
	"testing"

	"golang.org/x/sys/unix"
)

// TestTPMFilter does as QEMU does with a TPM: it sends its end of the channel for
// commands, powers the TPM on, and talks with it. The filter answers every second
// command itself.
func TestTPMFilter(t *testing.T) {
	need(t, "swtpm", "swtpm_setup")
	dir := filepath.Join(t.TempDir(), "tpm")
	if err := CreateTPM(t.Context(), dir, TPMOptions{}); err != nil {
		t.Fatal(err)
	}
	refusal := []byte{0x80, 0x01, 0, 0, 0, 10, 0, 0, 0x09, 0x22} // TPM_RC_RETRY
	asked := 0
	tpm, file, err := startTPM(dir, func(command []byte, pass func([]byte) ([]byte, error)) ([]byte, error) {
		if asked++; asked%2 == 1 {
			return refusal, nil
		}
		return pass(command)
	})
	if err != nil {
		t.Fatal(err)
	}
	defer tpm.Kill()
	conn, err := net.FileConn(file)
	if err != nil {
		t.Fatal(err)
	}
	file.Close()
	control := conn.(*net.UnixConn)
	commands, end, err := connPair("commands")
	if err != nil {
		t.Fatal(err)
	}
	defer commands.Close()
	const cmdInit, cmdSetDataFD = 2, 16 // of swtpm's control channel
	ask(t, control, []byte{0, 0, 0, cmdSetDataFD}, unix.UnixRights(int(end.Fd())))
	end.Close()
	ask(t, control, []byte{0, 0, 0, cmdInit, 0, 0, 0, 0}, nil)

	startup := []byte{0x80, 0x01, 0, 0, 0, 12, 0, 0, 0x01, 0x44, 0, 0} // TPM2_Startup(TPM_SU_CLEAR)
	success := []byte{0x80, 0x01, 0, 0, 0, 10, 0, 0, 0, 0}
	for _, want := range [][]byte{refusal, success} {
		if _, err := commands.Write(startup); err != nil {
			t.Fatal(err)
		}
		got, err := readTPM(commands)
		if err != nil || !bytes.Equal(got, want) {
			t.Errorf("response %x, %v; want %x", got, err, want)
		}
	}
	commands.Close()
	control.Close() // the machine ends
	<-tpm.Done()
}

// ask sends a command of the control channel; the answer begins with its result.
func ask(t *testing.T, control *net.UnixConn, command, rights []byte) {
	t.Helper()
	if _, _, err := control.WriteMsgUnix(command, rights, nil); err != nil {
		t.Fatal(err)
	}
	answer := make([]byte, 64)
	n, err := control.Read(answer)
	if err != nil || n < 4 || binary.BigEndian.Uint32(answer) != 0 {
		t.Fatalf("answer %x, %v", answer[:n], err)
	}
}

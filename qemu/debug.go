package qemu

import (
	"bufio"
	"context"
	"encoding/binary"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"path/filepath"
	"strings"
	"time"
)

// Debugger is a probe on a machine's processors, by way of QEMU's stub for gdb.
// With it a test makes a program fail at an exact instruction, which is the
// program's own and knows nothing of the test. It is used by one goroutine.
type Debugger struct {
	conn net.Conn
	in   *bufio.Reader
}

// Register is a 64-bit register of an x86-64 processor, in gdb's order.
type Register int

// The registers of a system call.
const (
	RAX Register = 0
	RSI Register = 4
	RDI Register = 5
	RIP Register = 16
)

// flagsOffset is where the flags are, after 17 registers of 64 bits, and
// csOffset where the code segment, whose low bits are the privilege level.
const (
	flagsOffset    = 17 * 8
	csOffset       = flagsOffset + 4
	interruptsFlag = 1 << 9
)

// Debug attaches a debugger. The machine stands still until RunTo or Close.
func (vm *VM) Debug(ctx context.Context) (*Debugger, error) {
	dir, err := os.MkdirTemp("", "sealboot-gdb-") // socket paths are short
	if err != nil {
		return nil, fmt.Errorf("qemu: debugger: %w", err)
	}
	defer os.RemoveAll(dir)
	path := filepath.Join(dir, "gdb")
	command := map[string]any{"command-line": "gdbserver unix:" + path + ",server=on,wait=off"}
	if _, err := vm.qmp.run(ctx, "human-monitor-command", command); err != nil {
		return nil, fmt.Errorf("qemu: debugger: %w", err)
	}
	conn, err := new(net.Dialer).DialContext(ctx, "unix", path)
	if err != nil {
		return nil, fmt.Errorf("qemu: debugger: %w", err)
	}
	d := &Debugger{conn: conn, in: bufio.NewReader(conn)}
	if _, err := d.receive(ctx); err != nil { // that the machine has stopped
		conn.Close()
		return nil, fmt.Errorf("qemu: debugger: %w", err)
	}
	return d, nil
}

// RunTo lets the machine run until a program, not the kernel, is about to
// execute the instruction at pc.
func (d *Debugger) RunTo(ctx context.Context, pc uint64) error {
	point := fmt.Sprintf("1,%x,1", pc) // a hardware breakpoint: no memory is changed
	if err := d.do(ctx, "Z"+point); err != nil {
		return err
	}
	stop, err := d.ask(ctx, "c")
	if err != nil {
		return err
	}
	_, thread, ok := strings.Cut(stop, "thread:")
	if !ok {
		return fmt.Errorf("qemu: debugger: stopped with %q", stop)
	}
	cpu, _, _ := strings.Cut(thread, ";") // the one that has stopped
	if err := errors.Join(d.do(ctx, "z"+point), d.do(ctx, "Hg"+cpu)); err != nil {
		return err
	}
	raw, err := d.registers(ctx)
	if err != nil {
		return err
	}
	at, ring := binary.LittleEndian.Uint64(raw[8*RIP:]), raw[csOffset]&3
	if at != pc || ring != 3 {
		return fmt.Errorf("qemu: debugger: stopped at %#x in ring %d; want %#x in a program", at, ring, pc)
	}
	return nil
}

// Set changes registers of the processor that has stopped.
func (d *Debugger) Set(ctx context.Context, values map[Register]uint64) error {
	raw, err := d.registers(ctx)
	if err != nil {
		return err
	}
	for r, v := range values {
		binary.LittleEndian.PutUint64(raw[8*r:], v)
	}
	return d.do(ctx, "G"+hex.EncodeToString(raw))
}

// Freeze makes the machine's kernel stand still for ever once it goes on: every
// processor jumps to where it is, and hears no interrupt.
func (d *Debugger) Freeze(ctx context.Context) error {
	cpus, err := d.processors(ctx)
	if err != nil {
		return err
	}
	if len(cpus) == 0 {
		return errors.New("freeze: QEMU's debug stub names no processors")
	}
	for {
		inKernel, err := d.inKernel(ctx, cpus)
		if err != nil {
			return err
		}
		if inKernel {
			break
		}
		if err := d.goOn(ctx, 10*time.Millisecond); err != nil {
			return err
		}
	}
	for _, cpu := range cpus {
		if err := d.do(ctx, "Hg"+cpu); err != nil {
			return err
		}
		raw, err := d.registers(ctx)
		if err != nil {
			return err
		}
		const jumpHere = "ebfe"
		if err := d.do(ctx, fmt.Sprintf("M%x,2:%s", binary.LittleEndian.Uint64(raw[8*RIP:]), jumpHere)); err != nil {
			return err
		}
		flags := raw[flagsOffset:]
		binary.LittleEndian.PutUint32(flags, binary.LittleEndian.Uint32(flags)&^interruptsFlag)
		if err := d.do(ctx, "G"+hex.EncodeToString(raw)); err != nil {
			return err
		}
	}
	return nil
}

// processors lists them, which come as threads, one or more an answer.
func (d *Debugger) processors(ctx context.Context) (cpus []string, err error) {
	for query := "qfThreadInfo"; ; query = "qsThreadInfo" {
		answer, err := d.ask(ctx, query)
		if err != nil {
			return nil, err
		}
		list, more := strings.CutPrefix(answer, "m")
		if !more {
			return cpus, nil
		}
		cpus = append(cpus, strings.Split(list, ",")...)
	}
}

// inKernel says whether all processors are in the kernel.
func (d *Debugger) inKernel(ctx context.Context, cpus []string) (bool, error) {
	for _, cpu := range cpus {
		if err := d.do(ctx, "Hg"+cpu); err != nil {
			return false, err
		}
		raw, err := d.registers(ctx)
		if err != nil || raw[csOffset]&3 != 0 {
			return false, err
		}
	}
	return true, nil
}

// goOn lets the machine run for a while.
func (d *Debugger) goOn(ctx context.Context, while time.Duration) error {
	if _, err := fmt.Fprintf(d.conn, "$c#%02x", checksum("c")); err != nil {
		return fmt.Errorf("qemu: debugger: c: %w", err)
	}
	time.Sleep(while)
	const interrupt = "\x03"
	_, err := io.WriteString(d.conn, interrupt)
	if err == nil {
		_, err = d.receive(ctx)
	}
	if err != nil {
		return fmt.Errorf("qemu: debugger: interrupt: %w", err)
	}
	return nil
}

// Close lets the machine go on without a debugger.
func (d *Debugger) Close() error {
	ctx, cancel := context.WithTimeout(context.Background(), 5*time.Second)
	defer cancel()
	return errors.Join(d.do(ctx, "D"), d.conn.Close())
}

// registers are all those of the processor that has stopped.
func (d *Debugger) registers(ctx context.Context) ([]byte, error) {
	answer, err := d.ask(ctx, "g")
	if err != nil {
		return nil, err
	}
	raw, err := hex.DecodeString(answer)
	if err != nil || len(raw) < csOffset+4 {
		return nil, fmt.Errorf("qemu: debugger: %q are no registers", answer)
	}
	return raw, nil
}

// do sends a command that is answered with OK.
func (d *Debugger) do(ctx context.Context, command string) error {
	answer, err := d.ask(ctx, command)
	if err == nil && answer != "OK" {
		err = fmt.Errorf("qemu: debugger: %s: %q", command, answer)
	}
	return err
}

// ask sends a packet of gdb's remote protocol and returns the next that comes.
func (d *Debugger) ask(ctx context.Context, command string) (string, error) {
	_, err := fmt.Fprintf(d.conn, "$%s#%02x", command, checksum(command))
	answer := ""
	if err == nil {
		answer, err = d.receive(ctx)
	}
	if err != nil {
		err = fmt.Errorf("qemu: debugger: %s: %w", command, err)
	}
	return answer, err
}

// receive returns a packet without its frame. The socket loses nothing, so that
// checksums and acknowledgements are only passed over.
func (d *Debugger) receive(ctx context.Context) (string, error) {
	stop := context.AfterFunc(ctx, func() { _ = d.conn.SetDeadline(time.Unix(1, 0)) })
	defer stop()
	if _, err := d.in.ReadString('$'); err != nil {
		return "", err
	}
	packet, err := d.in.ReadString('#')
	if err == nil {
		_, err = d.in.Discard(len("00"))
	}
	if err == nil {
		_, err = d.conn.Write([]byte("+"))
	}
	return strings.TrimSuffix(packet, "#"), err
}

func checksum(s string) (sum byte) {
	for _, c := range []byte(s) {
		sum += c
	}
	return sum
}

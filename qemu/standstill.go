package qemu

import (
	"context"
	"encoding/json"
	"fmt"
	"strings"
	"time"
)

// processors says where the machine's processors are, and what they execute there,
// for anyone who has to find out why it stands still: a kernel that has just been
// started has no console yet.
func (vm *VM) processors() string {
	ctx, cancel := context.WithTimeout(context.Background(), 5*time.Second)
	defer cancel()
	var list []struct {
		Index int `json:"cpu-index"`
	}
	raw, err := vm.qmp.run(ctx, "query-cpus-fast", nil)
	if err == nil {
		err = json.Unmarshal(raw, &list)
	}
	if err != nil {
		return fmt.Sprintf("processors: %v", err)
	}
	var b strings.Builder
	b.WriteString("processors:")
	for _, cpu := range list {
		// The line with RIP has the privilege level and whether it is halted, too.
		state := vm.monitor(ctx, cpu.Index, "info registers")
		code := vm.monitor(ctx, cpu.Index, "x/24xb $pc")
		fmt.Fprintf(&b, " [%d] %s; %s.", cpu.Index, lineWith(state, "RIP="), strings.Join(strings.Fields(code), " "))
	}
	return b.String()
}

// monitor asks QEMU's monitor about one processor, and returns its answer or why there is none.
func (vm *VM) monitor(ctx context.Context, cpu int, command string) string {
	raw, err := vm.qmp.run(ctx, "human-monitor-command", map[string]any{"command-line": command, "cpu-index": cpu})
	var answer string
	if err == nil {
		err = json.Unmarshal(raw, &answer)
	}
	if err != nil {
		return err.Error()
	}
	return answer
}

// lineWith returns the first line of text with a word, or all of it on one line.
func lineWith(text, word string) string {
	for line := range strings.Lines(text) {
		if strings.Contains(line, word) {
			return strings.TrimSpace(line)
		}
	}
	return strings.Join(strings.Fields(text), " ")
}

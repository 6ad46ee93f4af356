package cli

import (
	"bytes"
	"context"
	"errors"
	"strings"
	"testing"

	"github.com/spf13/cobra"

	"github.com/sealboot/sealboot/cmds/internal/version"
)

func TestRun(t *testing.T) {
	ended, cancel := context.WithCancel(t.Context())
	cancel()
	for name, c := range map[string]struct {
		ctx  context.Context
		args string
		code int
		want string
	}{
		"well":                 {t.Context(), "box open", 0, ""},
		"nothing":              {t.Context(), "", 0, ""},
		"fails":                {t.Context(), "box break", Failed, "tool: it broke\n"},
		"interrupted":          {ended, "box wait", Interrupted, "tool: interrupted\n"},
		"fails at the end":     {ended, "box break", Interrupted, "tool: it broke\n"},
		"no command":           {t.Context(), "box", Usage, "tool: say what to do: break, open, wait\nusage: tool box COMMAND\nMore: tool box --help\n"},
		"another command":      {t.Context(), "box opne", Usage, "tool: unknown command \"opne\" for \"tool box\"\n\nDid you mean this?\n\topen\nusage: tool box COMMAND\nMore: tool box --help\n"},
		"another flag":         {t.Context(), "box open --wide", Usage, "tool: unknown flag: --wide\nusage: tool box open\nMore: tool box open --help\n"},
		"an argument too many": {t.Context(), "box open it", Usage, "tool: unknown command \"it\" for \"tool box open\"\nusage: tool box open\nMore: tool box open --help\n"},
	} {
		t.Run(name, func(t *testing.T) {
			box := &cobra.Command{Use: "box"}
			for use, run := range map[string]func(*cobra.Command, []string) error{
				"open":  func(*cobra.Command, []string) error { return nil },
				"break": func(*cobra.Command, []string) error { return errors.New("it broke\n") },
				"wait":  func(cmd *cobra.Command, _ []string) error { return cmd.Context().Err() },
			} {
				box.AddCommand(&cobra.Command{Use: use, Args: cobra.NoArgs, RunE: run, DisableFlagsInUseLine: true})
			}
			root := &cobra.Command{Use: "tool"}
			root.AddCommand(box)
			root.SetArgs(strings.Fields(c.args))
			var stdout, stderr bytes.Buffer
			root.SetOut(&stdout)
			if code := Run(c.ctx, root, &stderr); code != c.code || stderr.String() != c.want {
				t.Errorf("exit code %d, %q; want %d, %q", code, stderr.String(), c.code, c.want)
			}
		})
	}
}

func TestVersion(t *testing.T) {
	root := &cobra.Command{Use: "tool"}
	root.AddCommand(&cobra.Command{Use: "box", Run: func(*cobra.Command, []string) {}})
	root.SetArgs([]string{"--version"})
	var out bytes.Buffer
	root.SetOut(&out)
	if code := Run(t.Context(), root, &out); code != 0 || out.String() != "tool "+version.String()+"\n" {
		t.Errorf("exit code %d, %q", code, out.String())
	}
}

// Bench compares making a RAM root with unpacking the same layer by tar:
//
//	bench [-runs N] [-dir TMPFS] ROOT.tar
//
// The tar file is compressed with gzip and zstd; each form is unpacked by both
// alternately, as whole processes, all files in tmpfs. It prints the medians,
// one "name value" a line; unpack_ratio, ours over tar's, is that of the worse form.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"math"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"slices"
	"time"

	"github.com/sealboot/sealboot/boot/base/memfd"
	"github.com/sealboot/sealboot/boot/image/unpack"
)

func main() {
	runs := flag.Int("runs", 5, "measurements of each")
	dir := flag.String("dir", "/dev/shm", "a tmpfs for all files")
	child := flag.Bool("child", false, "unpack one layer and exit (used by the program itself)")
	flag.Parse()
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt)
	defer stop()
	err := errors.New("usage: bench [-runs N] [-dir TMPFS] ROOT.tar")
	if flag.NArg() == 1 {
		if *child {
			err = ramRoot(ctx, flag.Arg(0))
		} else {
			err = compare(ctx, *dir, flag.Arg(0), *runs)
		}
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, "bench:", err)
		os.Exit(1)
	}
}

// ramRoot makes a RAM root of one layer, ready to be loaded.
func ramRoot(ctx context.Context, layer string) error {
	f, err := os.Open(layer)
	if err != nil {
		return err
	}
	defer f.Close()
	info, err := f.Stat()
	if err != nil {
		return err
	}
	root, err := memfd.Store("root", func(w *os.File) error {
		_, err := unpack.RAMRoot(ctx, w, []unpack.Layer{{Blob: f, Size: info.Size()}}, unpack.Options{MaxBytes: math.MaxInt64 / 16})
		return err
	})
	if err != nil {
		return err
	}
	return root.Close()
}

// compare measures both forms and prints the result.
func compare(ctx context.Context, tmpfs, tarball string, runs int) (err error) {
	dir, err := os.MkdirTemp(tmpfs, "unpack-bench-")
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, os.RemoveAll(dir)) }()
	self, err := os.Executable()
	if err != nil {
		return err
	}
	worst := 0.0
	for _, form := range []struct {
		name string
		args []string
	}{{"gzip", []string{"gzip", "-6", "-c"}}, {"zstd", []string{"zstd", "-3", "-q", "-c"}}} {
		layer := filepath.Join(dir, "layer."+form.name)
		if err := compress(ctx, tarball, layer, form.args); err != nil {
			return err
		}
		var ours, theirs []float64
		for range runs {
			root := filepath.Join(dir, "root")
			if err := os.Mkdir(root, 0o700); err != nil {
				return err
			}
			t, err := timed(ctx, "tar", "--"+form.name, "-xf", layer, "-C", root)
			if err = errors.Join(err, os.RemoveAll(root)); err != nil {
				return err
			}
			o, err := timed(ctx, self, "-child", layer)
			if err != nil {
				return err
			}
			ours, theirs = append(ours, o), append(theirs, t)
		}
		o, t := median(ours), median(theirs)
		fmt.Printf("unpack_%s_s %.2f\ntar_%s_s %.2f\n", form.name, o, form.name, t)
		worst = max(worst, o/t)
		if err := os.Remove(layer); err != nil {
			return err
		}
	}
	fmt.Printf("unpack_ratio %.2f\n", worst)
	return nil
}

func compress(ctx context.Context, from, to string, args []string) error {
	in, err := os.Open(from)
	if err != nil {
		return err
	}
	defer in.Close()
	out, err := os.Create(to)
	if err != nil {
		return err
	}
	cmd := exec.CommandContext(ctx, args[0], args[1:]...)
	cmd.Stdin, cmd.Stdout, cmd.Stderr = in, out, os.Stderr
	if err := errors.Join(cmd.Run(), out.Close()); err != nil {
		return fmt.Errorf("%s %s: %w", args[0], from, err)
	}
	return nil
}

// timed runs a command and returns its wall time in seconds.
func timed(ctx context.Context, args ...string) (float64, error) {
	cmd := exec.CommandContext(ctx, args[0], args[1:]...)
	cmd.Stderr = os.Stderr
	start := time.Now()
	if err := cmd.Run(); err != nil {
		return 0, fmt.Errorf("%s: %w", args[0], err)
	}
	return time.Since(start).Seconds(), nil
}

func median(v []float64) float64 {
	slices.Sort(v)
	return v[len(v)/2]
}

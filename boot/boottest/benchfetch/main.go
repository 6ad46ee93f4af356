// Benchfetch measures how fast an image of one large blob is fetched from
// Debian's docker-registry on the loopback, together with curl and skopeo. It prints
// a line "name value" for each result:
//
//	curl_ratio          our wall time, SHA-256 included, over that of curl -o /dev/shm/x
//	skopeo_ratio        wall time of skopeo copy to an OCI layout over ours
//	rss_over_image_mib  our peak resident memory; the image, in an unmapped file, is no part of it
//	resent_mib          what was sent twice after cuts at 10, 50 and 90 %
//
// Times are medians of alternating runs, of whole processes. What each has
// fetched outlives it and is freed between the runs: the files of curl and
// skopeo do so anyway, and ours are handed to the parent.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"net/http"
	"net/http/httptest"
	"net/http/httputil"
	"net/url"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"time"

	"github.com/sealboot/sealboot/boot/boottest/faultproxy"
	"github.com/sealboot/sealboot/boot/source/oci"
)

func main() {
	child := flag.String("child", "", "fetch this `reference` and exit: what is measured")
	size := flag.Int64("mib", 1024, "size of the blob in MiB")
	runs := flag.Int("runs", 9, "runs of each program")
	flag.Parse()
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	var err error
	if *child != "" {
		err = fetchImage(ctx, *child)
	} else {
		err = bench(ctx, *size<<20, *runs)
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, "benchfetch:", err)
		os.Exit(1)
	}
}

// fetchImage fetches and verifies every blob of an image.
func fetchImage(ctx context.Context, ref string) error {
	r, err := oci.NewRemote(ref, oci.Connection{PlainHTTP: true})
	if err != nil {
		return err
	}
	src, err := oci.New(oci.Options{Places: []oci.Place{r}})
	if err != nil {
		return err
	}
	img, err := src.Open(ctx)
	if err != nil {
		return err
	}
	if err := img.Prefetch(ctx); err != nil {
		return err
	}
	return bequeath()
}

type result struct {
	wall time.Duration
	rss  int64 // KiB
}

// run runs a command and takes its time.
func run(ctx context.Context, name string, args ...string) (result, error) {
	cmd := exec.CommandContext(ctx, name, args...)
	var out strings.Builder
	cmd.Stdout, cmd.Stderr = &out, &out
	heir, legacy, err := newHeir()
	if err != nil {
		return result{}, err
	}
	defer heir.Close()
	cmd.ExtraFiles = []*os.File{legacy} // its descriptor 3
	start := time.Now()
	err = cmd.Run()
	wall := time.Since(start)
	if err = errors.Join(err, legacy.Close()); err != nil {
		return result{}, fmt.Errorf("%s: %w: %s", name, err, out.String())
	}
	return result{wall, cmd.ProcessState.SysUsage().(*syscall.Rusage).Maxrss}, nil
}

func bench(ctx context.Context, size int64, runs int) (err error) {
	dir, err := os.MkdirTemp("", "benchfetch-")
	if err != nil {
		return err
	}
	shm, err := os.MkdirTemp("/dev/shm", "benchfetch-")
	if err != nil {
		return errors.Join(err, os.RemoveAll(dir))
	}
	defer func() { err = errors.Join(err, os.RemoveAll(dir), os.RemoveAll(shm)) }()
	reg, err := startRegistry(ctx, dir)
	if err != nil {
		return err
	}
	defer reg.stop()
	img, err := reg.push(ctx, size)
	if err != nil {
		return err
	}
	self, err := os.Executable()
	if err != nil {
		return err
	}
	var curl, ours, skopeo []result
	file, layout := filepath.Join(shm, "x"), filepath.Join(shm, "layout")
	policy := filepath.Join(dir, "policy.json")
	if err := os.WriteFile(policy, []byte(`{"default":[{"type":"insecureAcceptAnything"}]}`), 0o600); err != nil {
		return err
	}
	for range runs {
		for _, program := range []struct {
			to   *[]result
			args []string
		}{
			{&curl, []string{"curl", "-sSfo", file, "http://" + reg.addr + "/v2/" + repository + "/blobs/" + img.blob.Digest.String()}},
			{&ours, []string{self, "-child", img.reference}},
			{&skopeo, []string{"skopeo", "--policy", policy, "copy", "-q", "--src-tls-verify=false", "docker://" + img.reference, "oci:" + layout + ":x"}},
		} {
			if err := errors.Join(os.RemoveAll(file), os.RemoveAll(layout)); err != nil {
				return err
			}
			r, err := run(ctx, program.args[0], program.args[1:]...)
			if err != nil {
				return err
			}
			*program.to = append(*program.to, r)
		}
	}
	resent, err := resent(ctx, self, reg.addr, img)
	if err != nil {
		return err
	}
	report(curl, ours, skopeo, resent)
	return nil
}

func report(curl, ours, skopeo []result, resent int64) {
	wall := func(rs []result) float64 { return median(rs, func(r result) float64 { return r.wall.Seconds() }) }
	fmt.Printf("curl_s %.2f\n", wall(curl))
	fmt.Printf("fetch_s %.2f\n", wall(ours))
	fmt.Printf("skopeo_s %.2f\n", wall(skopeo))
	fmt.Printf("curl_ratio %.2f\n", wall(ours)/wall(curl))
	fmt.Printf("skopeo_ratio %.2f\n", wall(skopeo)/wall(ours))
	fmt.Printf("rss_over_image_mib %.1f\n", median(ours, func(r result) float64 { return float64(r.rss) / 1024 }))
	fmt.Printf("resent_mib %.3f\n", float64(resent)/(1<<20))
}

func median(rs []result, value func(result) float64) float64 {
	var vs []float64
	for _, r := range rs {
		vs = append(vs, value(r))
	}
	slices.Sort(vs)
	return vs[len(vs)/2]
}

// resent fetches through a proxy that cuts the connection when 10, 50 and 90 %
// of the blob have been sent, and returns how much more than the blob that took.
func resent(ctx context.Context, self, addr string, img image) (int64, error) {
	proxy := &faultproxy.Proxy{Next: httputil.NewSingleHostReverseProxy(&url.URL{Scheme: "http", Host: addr})}
	size := img.blob.Size
	cuts := []int64{size / 10, size / 2, size / 10 * 9}
	proxy.Pick = func(r *http.Request, _ int) faultproxy.Fault {
		if len(cuts) == 0 || !strings.HasSuffix(r.URL.Path, img.blob.Digest.String()) {
			return nil
		}
		return func(w http.ResponseWriter, r *http.Request, next http.Handler) {
			defer func() {
				if cause := recover(); cause != nil {
					cuts = cuts[1:]
					panic(cause)
				}
			}()
			faultproxy.Cut(max(1, cuts[0]-proxy.Sent()))(w, r, next)
		}
	}
	before := proxy.Sent()
	server := httptest.NewServer(proxy)
	defer server.Close()
	ref := strings.TrimPrefix(server.URL, "http://") + strings.TrimPrefix(img.reference, addr)
	if _, err := run(ctx, self, "-child", ref); err != nil {
		return 0, err
	}
	if len(cuts) > 0 {
		return 0, fmt.Errorf("%d of 3 cuts did not happen", len(cuts))
	}
	return proxy.Sent() - before - img.total, nil
}

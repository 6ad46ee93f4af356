package main

import (
	"fmt"
	"os"
	"testing"

	"github.com/sealboot/sealboot/boot/boottest/tuftest"
)

const artifact = "target_file.txt"

func (c *runner) publishArtifact(name, content string, hashes ...string) {
	c.repo.AddArtifact("targets", name, []byte(content), hashes...)
	c.repo.Publish("targets", "snapshot", "timestamp")
}

func Test_client_downloads_expected_file(t *testing.T) {
	for name, path := range map[string]string{
		"plain": artifact, "in_sub_dir": "path/to/a/target_file.txt", "strange": "a b/ü?#%2F.", "dots": "..",
	} {
		t.Run(name, func(t *testing.T) {
			c := newRunner(t)
			c.want(c.initClient(), 0)
			c.publishArtifact(path, "target file contents")
			c.want(c.refresh(), 0)
			c.wantDownloads()
			c.want(c.download(path), 0)
			c.wantDownloads("target file contents")
		})
	}
}

func Test_plain_layout(t *testing.T) {
	c := newRunner(t)
	c.want(c.initClient(), 0)
	c.repo.Root.Signed.ConsistentSnapshot = false
	c.repo.Publish("root")
	c.publishArtifact("dir/"+artifact, "plain")
	c.want(c.download("dir/"+artifact), 0)
	c.wantDownloads("plain")
	c.wantRequests(tuftest.Request{Role: "root", Version: 2}, tuftest.Request{Role: "root", Version: 3},
		tuftest.Request{Role: "timestamp"}, tuftest.Request{Role: "snapshot"}, tuftest.Request{Role: "targets"})
}

func Test_artifact_cache(t *testing.T) {
	c := newRunner(t)
	c.want(c.initClient(), 0)
	c.publishArtifact(artifact, "content")
	c.want(c.download(artifact), 0)
	c.want(c.download(artifact), 0)
	if n := len(c.repo.ArtifactRequests()); n != 1 {
		t.Fatalf("%d requests for the artifact, want 1", n)
	}
}

func Test_repository_substitutes_target_file(t *testing.T) {
	c := newRunner(t)
	c.want(c.initClient(), 0)
	c.repo.AddArtifact("targets", artifact, []byte("target file contents"))
	c.publishArtifact("another.txt", "content")
	c.want(c.download(artifact), 0)
	c.wantDownloads("target file contents")
	for _, evil := range []string{"malicious data - should not download", "short", "confest"} {
		c.repo.Artifacts[artifact].Data = []byte(evil)
		c.repo.Artifacts["another.txt"].Data = []byte(evil)
		c.download(artifact) // may use what it has
		c.wantDownloads("target file contents")
		c.want(c.download("another.txt"), 1)
		c.wantDownloads("target file contents")
	}
}

func Test_multiple_changes_to_target(t *testing.T) {
	c := newRunner(t)
	c.want(c.initClient(), 0)
	c.publishArtifact(artifact, "target file contents")
	c.want(c.download(artifact), 0)
	want := []string{"target file contents"}
	for i := range 11 {
		modified, added := fmt.Sprintf("modified file contents %d", i), fmt.Sprintf("new file contents %d", i)
		name := fmt.Sprintf("new-target-%d", i)
		c.repo.AddArtifact("targets", artifact, []byte(modified))
		c.publishArtifact(name, added)
		if i%5 != 0 {
			continue
		}
		c.want(c.download(artifact), 0)
		c.want(c.download(name), 0)
		want = append(replace(want, i, modified), added)
		c.wantDownloads(want...)
		c.repo.Artifacts[artifact].Data = []byte("malicious contents")
		c.repo.Publish("targets", "snapshot", "timestamp")
		c.download(artifact)
		c.wantDownloads(want...)
	}
}

// replace drops what the artifact was before and adds what it is now.
func replace(downloads []string, i int, now string) []string {
	before := "target file contents"
	if i > 0 {
		before = fmt.Sprintf("modified file contents %d", i-5)
	}
	var out []string
	for _, d := range downloads {
		if d != before {
			out = append(out, d)
		}
	}
	return append(out, now)
}

func Test_download_with_hash_algorithms(t *testing.T) {
	for _, hashes := range [][]string{{"sha256"}, {"sha512"}, {"sha256", "sha512"}} {
		t.Run(fmt.Sprint(hashes), func(t *testing.T) {
			c := newRunner(t)
			c.want(c.initClient(), 0)
			c.publishArtifact(artifact, "target file contents", hashes...)
			c.want(c.download(artifact), 0)
			if n := len(c.repo.ArtifactRequests()); n != 1 {
				t.Fatalf("%d requests, want 1", n)
			}
			c.wantDownloads("target file contents")
		})
	}
}

func Test_download_with_unknown_hash_algorithm(t *testing.T) {
	c := newRunner(t)
	c.want(c.initClient(), 0)
	c.publishArtifact(artifact, "target file contents", "unknown-hash")
	c.want(c.download(artifact), 1)
	c.wantDownloads()
}

func Test_wrong_second_hash_is_refused(t *testing.T) {
	c := newRunner(t)
	c.want(c.initClient(), 0)
	c.repo.AddArtifact("targets", artifact, []byte("contents"), "sha256", "sha512")
	c.repo.Targets().Targets[artifact].Hashes["sha512"][0] ^= 1
	c.repo.Publish("targets", "snapshot", "timestamp")
	c.want(c.download(artifact), 1)
	c.wantDownloads()
}

func Test_file_system_without_nameless_files(t *testing.T) {
	o := options{targetDir: t.TempDir()}
	f, err := o.createHidden()
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	if _, err := f.WriteString("content"); err != nil {
		t.Fatal(err)
	}
	if err := place(f, o.path("name")); err != nil {
		t.Fatal(err)
	}
	entries, err := os.ReadDir(o.targetDir)
	if err != nil || len(entries) != 1 || entries[0].Name() != "name" {
		t.Fatalf("%v, %v", entries, err)
	}
}

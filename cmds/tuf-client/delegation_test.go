package main

import (
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/theupdateframework/go-tuf/v2/metadata"

	"github.com/sealboot/sealboot/boot/boottest/tuftest"
)

// edge is one delegation of a graph; no paths means every path.
type edge struct {
	from, to    string
	terminating bool
	paths       []string
}

func (c *runner) delegate(edges []edge) {
	roles := map[string]bool{"targets": true}
	for _, e := range edges {
		paths := e.paths
		if paths == nil {
			paths = []string{"*"}
		}
		roles[e.to] = true
		c.repo.Delegate(e.from, metadata.DelegatedRole{Name: e.to, Threshold: 1, Terminating: e.terminating, Paths: paths})
	}
	for role := range roles {
		c.repo.Publish(role)
	}
	c.repo.Publish("snapshot", "timestamp")
}

// wantVisited checks which delegated roles were fetched, in order.
func (c *runner) wantVisited(roles ...string) {
	c.t.Helper()
	var got []string
	for _, q := range c.repo.Requests()[4:] {
		got = append(got, q.Role)
		if q.Version != 1 {
			c.t.Errorf("asked for version %d of %s", q.Version, q.Role)
		}
	}
	if diff := cmp.Diff(roles, got); diff != "" {
		c.t.Fatalf("visited roles (-want +got):\n%s", diff)
	}
}

var graphs = map[string]struct {
	edges []edge
	visit []string
}{
	"basic-delegation":                                          {[]edge{{from: "targets", to: "A"}}, []string{"A"}},
	"single-level-delegations":                                  {[]edge{{from: "targets", to: "A"}, {from: "targets", to: "B"}}, []string{"A", "B"}},
	"two-level-delegations":                                     {[]edge{{from: "targets", to: "A"}, {from: "targets", to: "B"}, {from: "B", to: "C"}}, []string{"A", "B", "C"}},
	"two-level-test-DFS-order-of-traversal":                     {[]edge{{from: "targets", to: "A"}, {from: "targets", to: "B"}, {from: "A", to: "C"}, {from: "A", to: "D"}}, []string{"A", "C", "D", "B"}},
	"three-level-delegation-test-DFS-order-of-traversal":        {[]edge{{from: "targets", to: "A"}, {from: "targets", to: "B"}, {from: "A", to: "C"}, {from: "C", to: "D"}}, []string{"A", "C", "D", "B"}},
	"two-level-terminating-ignores-all-but-roles-descendants":   {[]edge{{from: "targets", to: "A"}, {from: "targets", to: "B"}, {from: "A", to: "C", terminating: true}, {from: "A", to: "D"}}, []string{"A", "C"}},
	"three-level-terminating-ignores-all-but-roles-descendants": {[]edge{{from: "targets", to: "A"}, {from: "targets", to: "B"}, {from: "A", to: "C", terminating: true}, {from: "C", to: "D"}}, []string{"A", "C", "D"}},
	"two-level-ignores-all-branches-not-matching-paths":         {[]edge{{from: "targets", to: "A", paths: []string{"*.py"}}, {from: "targets", to: "B"}, {from: "A", to: "C"}}, []string{"B"}},
	"three-level-ignores-all-branches-not-matching-paths":       {[]edge{{from: "targets", to: "A"}, {from: "targets", to: "B"}, {from: "A", to: "C", paths: []string{"*.py"}}, {from: "C", to: "D"}}, []string{"A", "B"}},
	"cyclic-graph":                                    {[]edge{{from: "targets", to: "A"}, {from: "targets", to: "B"}, {from: "B", to: "C"}, {from: "C", to: "D"}, {from: "D", to: "B"}}, []string{"A", "B", "C", "D"}},
	"two-roles-delegating-to-a-third":                 {[]edge{{from: "targets", to: "A"}, {from: "targets", to: "B"}, {from: "B", to: "C"}, {from: "A", to: "C"}}, []string{"A", "C", "B"}},
	"two-roles-delegating-to-a-third-different-paths": {[]edge{{from: "targets", to: "A"}, {from: "targets", to: "B"}, {from: "B", to: "C"}, {from: "A", to: "C", paths: []string{"*.py"}}}, []string{"A", "B", "C"}},
}

func Test_graph_traversal(t *testing.T) {
	for name, g := range graphs {
		t.Run(name, func(t *testing.T) {
			c := newRunner(t)
			c.want(c.initClient(), 0)
			c.repo.Published["targets"] = nil // version 1 is published with the delegations
			c.repo.Targets().Version = 1
			c.delegate(g.edges)
			c.want(c.download("missingpath"), 1)
			c.wantVisited(g.visit...)
		})
	}
}

func Test_targetfile_search(t *testing.T) {
	for name, target := range map[string]struct {
		path  string
		found bool
		visit []string
	}{
		"no delegations":                                        {"targetfile", true, nil},
		"targetpath matches wildcard":                           {"README.md", true, []string{"A"}},
		"targetpath with separators x":                          {"releases/x/x_v1", true, []string{"B", "C"}},
		"targetpath with separators y":                          {"releases/y/y_v1.zip", true, []string{"B", "D"}},
		"targetpath is not delegated by all roles in the chain": {"releases/z/z_v1.zip", false, []string{"B"}},
	} {
		t.Run(name, func(t *testing.T) {
			c := newRunner(t)
			c.want(c.initClient(), 0)
			for _, role := range []string{"A", "B", "C", "D"} {
				c.repo.Roles[role] = metadata.Targets(c.repo.Expiry)
			}
			for file, role := range map[string]string{
				"targetfile": "targets", "README.md": "A", "releases/x/x_v1": "C",
				"releases/y/y_v1.zip": "D", "releases/z/z_v1.zip": "D",
			} {
				c.repo.AddArtifact(role, file, []byte(file+" by "+role))
			}
			c.delegate([]edge{
				{from: "targets", to: "A", paths: []string{"*.doc", "*.md"}},
				{from: "targets", to: "B", paths: []string{"releases/*/*"}},
				{from: "B", to: "C", paths: []string{"releases/x/*"}},
				{from: "B", to: "D", paths: []string{"releases/y/*.zip"}},
			})
			if target.found {
				c.want(c.download(target.path), 0)
				c.wantDownloads(string(c.repo.Artifacts[target.path].Data))
			} else {
				c.want(c.download(target.path), 1)
				c.wantDownloads()
			}
			c.wantVisited(target.visit...)
		})
	}
}

// diamond is targets -> A, B -> C with other paths; each of A and B trusts a
// key of its own for C.
func diamond(c *runner) (a, b tuftest.Signer) {
	c.want(c.initClient(), 0)
	c.repo.Delegate("targets", metadata.DelegatedRole{Name: "A", Threshold: 1, Paths: []string{"path-a"}})
	c.repo.Delegate("targets", metadata.DelegatedRole{Name: "B", Threshold: 1, Paths: []string{"path-b"}})
	a = c.repo.Delegate("A", metadata.DelegatedRole{Name: "C", Threshold: 1, Paths: []string{"path-a"}})
	b = c.repo.Delegate("B", metadata.DelegatedRole{Name: "C", Threshold: 1, Paths: []string{"path-b"}})
	c.repo.AddArtifact("C", "path-a", []byte("a"))
	c.repo.AddArtifact("C", "path-b", []byte("b"))
	return a, b
}

func Test_shared_delegation_signature_check(t *testing.T) {
	for name, together := range map[string]bool{"one run": true, "two runs": false} {
		t.Run(name, func(t *testing.T) {
			c := newRunner(t)
			a, _ := diamond(c)
			c.repo.Signers["C"] = []tuftest.Signer{a}
			c.repo.Publish("C", "B", "A", "targets", "snapshot", "timestamp")
			if together {
				c.want(c.download("path-a", "path-b"), 1)
			} else {
				c.want(c.download("path-a"), 0)
				c.want(c.download("path-b"), 1)
			}
			c.wantDownloads("a")
		})
	}
}

func Test_shared_delegation_signed_for_both(t *testing.T) {
	c := newRunner(t)
	diamond(c)
	c.repo.Publish("C", "B", "A", "targets", "snapshot", "timestamp")
	c.want(c.download("path-a", "path-b"), 0)
	c.wantDownloads("a", "b")
}

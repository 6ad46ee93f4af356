// Package tuftest is a TUF repository for tests: any of its metadata can be
// changed at will, is signed when it is published, and is served in-process.
// It records what clients ask for.
package tuftest

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"crypto/sha256"
	"crypto/sha512"
	"net/http"
	"net/http/httptest"
	"net/url"
	"path"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/theupdateframework/go-tuf/v2/metadata"

	"github.com/sealboot/sealboot/boot/publish/sign"
)

// Request is one request for metadata. Version is 0 without a version prefix.
type Request struct {
	Role    string // as it was escaped in the URL
	Version int64
}

// ArtifactRequest is one request for a target.
type ArtifactRequest struct{ Path, Hash string }

// Signer is a private key under the identifier that the metadata knows it by.
type Signer struct {
	ID  string
	Key crypto.Signer
}

// Artifact is a target file as it is served.
type Artifact struct {
	Data []byte
	File *metadata.TargetFiles
}

// Repo is the repository. Its fields may be changed between requests.
type Repo struct {
	tb     testing.TB
	URL    string // of the server, without a slash at the end
	Expiry time.Time

	Root      *metadata.Metadata[metadata.RootType]
	Timestamp *metadata.Metadata[metadata.TimestampType]
	Snapshot  *metadata.Metadata[metadata.SnapshotType]
	Roles     map[string]*metadata.Metadata[metadata.TargetsType]

	Published map[string][][]byte // by role, every version
	Signers   map[string][]Signer // by role
	Artifacts map[string]*Artifact

	HashMetadata bool // put lengths and hashes into snapshot and timestamp
	// Intercept, if not nil, may answer a request itself.
	Intercept func(w http.ResponseWriter, r *http.Request) bool

	mu        sync.Mutex
	requests  []Request
	artifacts []ArtifactRequest
	bytes     int64
}

// New returns a repository with one P-256 key a role, published and served.
func New(tb testing.TB) *Repo {
	tb.Helper()
	r := &Repo{
		tb:        tb,
		Expiry:    time.Now().UTC().Truncate(time.Second).AddDate(0, 0, 30),
		Published: map[string][][]byte{},
		Signers:   map[string][]Signer{},
		Artifacts: map[string]*Artifact{},
	}
	r.Root = metadata.Root(r.Expiry)
	r.Timestamp = metadata.Timestamp(r.Expiry)
	r.Snapshot = metadata.Snapshot(r.Expiry)
	r.Roles = map[string]*metadata.Metadata[metadata.TargetsType]{"targets": metadata.Targets(r.Expiry)}
	for _, role := range []string{"root", "timestamp", "snapshot", "targets"} {
		r.AddKey(role, NewKey(tb))
	}
	r.Publish("targets", "snapshot", "timestamp", "root")
	server := httptest.NewServer(r)
	tb.Cleanup(server.Close)
	r.URL = server.URL
	return r
}

// NewKey returns a P-256 key.
func NewKey(tb testing.TB) crypto.Signer {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	return must(tb, key, err)
}

// NewKeyOf returns a key of a TUF key type and scheme.
func NewKeyOf(tb testing.TB, keytype, scheme string) crypto.Signer {
	switch scheme {
	case "ed25519":
		_, key, err := ed25519.GenerateKey(rand.Reader)
		return must(tb, key, err)
	case "rsassa-pss-sha256":
		key, err := rsa.GenerateKey(rand.Reader, 2048)
		return must(tb, key, err)
	case "ecdsa-sha2-nistp384":
		key, err := ecdsa.GenerateKey(elliptic.P384(), rand.Reader)
		return must(tb, key, err)
	case "ecdsa-sha2-nistp256":
		return NewKey(tb)
	}
	tb.Fatalf("no key of type %s, scheme %s", keytype, scheme)
	return nil
}

func must[T any](tb testing.TB, v T, err error) T {
	tb.Helper()
	if err != nil {
		tb.Fatal(err)
	}
	return v
}

// Targets returns the top-level targets role.
func (r *Repo) Targets() *metadata.TargetsType { return &r.Roles["targets"].Signed }

// AddKey gives a top-level role another key and signs with it from now on.
func (r *Repo) AddKey(role string, key crypto.Signer) {
	r.tb.Helper()
	pub, id, err := sign.PublicKey(key.Public())
	if err != nil {
		r.tb.Fatal(err)
	}
	r.AddKeyAs(role, id, pub, key)
}

// AddKeyAs is AddKey with everything said.
func (r *Repo) AddKeyAs(role, id string, pub *metadata.Key, key crypto.Signer) {
	r.Root.Signed.Keys[id] = pub
	r.Root.Signed.Roles[role].KeyIDs = append(r.Root.Signed.Roles[role].KeyIDs, id)
	r.AddSigner(role, id, key)
}

// AddSigner makes the role be signed with key too, without trusting it.
func (r *Repo) AddSigner(role, id string, key crypto.Signer) {
	r.Signers[role] = append(r.Signers[role], Signer{id, key})
}

// ClearKeys takes all keys and signers away from a top-level role.
func (r *Repo) ClearKeys(role string) {
	r.Root.Signed.Roles[role].KeyIDs = nil
	r.Signers[role] = nil
}

// RotateKeys replaces the keys of a top-level role by as many as the threshold.
func (r *Repo) RotateKeys(role string) {
	r.ClearKeys(role)
	for range r.Root.Signed.Roles[role].Threshold {
		r.AddKey(role, NewKey(r.tb))
	}
}

// delegated gives what delegator delegates one more key.
func (r *Repo) delegated(delegator string) (d *metadata.Delegations, id string, key crypto.Signer) {
	r.tb.Helper()
	d, key = r.delegations(delegator), NewKey(r.tb)
	pub, id, err := sign.PublicKey(key.Public())
	if err != nil {
		r.tb.Fatal(err)
	}
	d.Keys[id] = pub
	return d, id, key
}

// Delegate adds a delegated role with a new key, last in order.
func (r *Repo) Delegate(delegator string, role metadata.DelegatedRole) Signer {
	r.tb.Helper()
	d, id, key := r.delegated(delegator)
	role.KeyIDs = append(role.KeyIDs, id)
	d.Roles = append(d.Roles, role)
	r.AddSigner(role.Name, id, key)
	if r.Roles[role.Name] == nil {
		r.Roles[role.Name] = metadata.Targets(r.Expiry)
	}
	return Signer{id, key}
}

// DelegateSuccinct delegates to bins. It does not create them.
func (r *Repo) DelegateSuccinct(delegator string, bits int, prefix string) Signer {
	r.tb.Helper()
	d, id, key := r.delegated(delegator)
	d.SuccinctRoles = &metadata.SuccinctRoles{KeyIDs: []string{id}, Threshold: 1, BitLength: bits, NamePrefix: prefix}
	for _, bin := range d.SuccinctRoles.GetRoles() {
		r.AddSigner(bin, id, key)
		r.Roles[bin] = metadata.Targets(r.Expiry)
	}
	return Signer{id, key}
}

func (r *Repo) delegations(delegator string) *metadata.Delegations {
	signed := &r.Roles[delegator].Signed
	if signed.Delegations == nil {
		signed.Delegations = &metadata.Delegations{Keys: map[string]*metadata.Key{}}
	}
	return signed.Delegations
}

// AddArtifact serves data under name and lists it in a role. The hashes are
// sha256 unless others are named.
func (r *Repo) AddArtifact(role, name string, data []byte, hashes ...string) {
	if len(hashes) == 0 {
		hashes = []string{"sha256"}
	}
	f := &metadata.TargetFiles{Length: int64(len(data)), Hashes: metadata.Hashes{}, Path: name}
	for _, h := range hashes {
		switch h {
		case "sha256":
			sum := sha256.Sum256(data)
			f.Hashes[h] = sum[:]
		default:
			sum := sha512.Sum512(data)
			f.Hashes[h] = sum[:]
		}
	}
	r.Roles[role].Signed.Targets[name] = f
	r.Artifacts[name] = &Artifact{data, f}
}

// Publish signs new versions of roles. What points to them (the snapshot's
// entry, the timestamp's) is changed, not published.
func (r *Repo) Publish(roles ...string) {
	r.tb.Helper()
	for _, role := range roles {
		first := len(r.Published[role]) == 0
		var data []byte
		var version int64
		switch role {
		case "root":
			data, version = publish(r, role, r.Root, &r.Root.Signed.Version, first)
		case "timestamp":
			data, version = publish(r, role, r.Timestamp, &r.Timestamp.Signed.Version, first)
		case "snapshot":
			data, version = publish(r, role, r.Snapshot, &r.Snapshot.Signed.Version, first)
		default:
			data, version = publish(r, role, r.Roles[role], &r.Roles[role].Signed.Version, first)
		}
		r.Published[role] = append(r.Published[role], data)
		switch role {
		case "root", "timestamp":
		case "snapshot":
			r.Timestamp.Signed.Meta["snapshot.json"] = r.meta(version, data)
		default:
			r.Snapshot.Signed.Meta[role+".json"] = r.meta(version, data)
		}
	}
}

func (r *Repo) meta(version int64, data []byte) *metadata.MetaFiles {
	m := &metadata.MetaFiles{Version: version}
	if r.HashMetadata {
		sum := sha256.Sum256(data)
		m.Length, m.Hashes = int64(len(data)), metadata.Hashes{"sha256": sum[:]}
	}
	return m
}

func publish[T metadata.Roles](r *Repo, role string, md *metadata.Metadata[T], version *int64, first bool) ([]byte, int64) {
	r.tb.Helper()
	if !first {
		*version++
	}
	md.Signatures = []metadata.Signature{}
	for _, s := range r.Signers[role] {
		if err := sign.Metadata(md, s.ID, s.Key); err != nil {
			r.tb.Fatal(err)
		}
	}
	data, err := md.ToBytes(false)
	if err != nil {
		r.tb.Fatal(err)
	}
	return data, *version
}

// Last returns what was published last of a role.
func (r *Repo) Last(role string) []byte {
	p := r.Published[role]
	return p[len(p)-1]
}

// Requests returns the requests for metadata so far.
func (r *Repo) Requests() []Request {
	r.mu.Lock()
	defer r.mu.Unlock()
	return append([]Request(nil), r.requests...)
}

// ArtifactRequests returns the requests for targets so far.
func (r *Repo) ArtifactRequests() []ArtifactRequest {
	r.mu.Lock()
	defer r.mu.Unlock()
	return append([]ArtifactRequest(nil), r.artifacts...)
}

// BytesSent returns the bytes of all bodies so far.
func (r *Repo) BytesSent() int64 {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.bytes
}

// Forget clears what was recorded.
func (r *Repo) Forget() {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.requests, r.artifacts, r.bytes = nil, nil, 0
}

// ServeHTTP serves /metadata/ and /targets/.
func (r *Repo) ServeHTTP(w http.ResponseWriter, req *http.Request) {
	r.mu.Lock()
	defer r.mu.Unlock()
	p := req.URL.EscapedPath()
	var data []byte
	if name, ok := strings.CutPrefix(p, "/metadata/"); ok && strings.HasSuffix(name, ".json") {
		data = r.metadata(strings.TrimSuffix(name, ".json"))
	} else if name, ok := strings.CutPrefix(p, "/targets/"); ok {
		data = r.target(name)
	}
	if r.Intercept != nil && r.Intercept(w, req) {
		return
	}
	if data == nil {
		http.NotFound(w, req)
		return
	}
	w.Header().Set("Content-Length", strconv.Itoa(len(data)))
	n, _ := w.Write(data)
	r.bytes += int64(n)
}

func (r *Repo) metadata(name string) []byte {
	q := Request{Role: name}
	if v, rest, ok := strings.Cut(name, "."); ok && name != "timestamp" {
		if n, err := strconv.ParseInt(v, 10, 64); err == nil && (rest == "root" || r.Root.Signed.ConsistentSnapshot) {
			q = Request{rest, n}
		}
	}
	r.requests = append(r.requests, q)
	role, err := url.PathUnescape(q.Role)
	if err != nil {
		return nil
	}
	versions := r.Published[role]
	switch {
	case len(versions) == 0 || q.Version > int64(len(versions)):
		return nil
	case q.Version > 0:
		return versions[q.Version-1]
	}
	return versions[len(versions)-1]
}

func (r *Repo) target(name string) []byte {
	q := ArtifactRequest{Path: name}
	if r.Root.Signed.ConsistentSnapshot {
		dir, file := path.Split(name)
		q.Hash, file, _ = strings.Cut(file, ".")
		q.Path = dir + file
	}
	r.artifacts = append(r.artifacts, q)
	if p, err := url.PathUnescape(q.Path); err == nil {
		q.Path = p
	}
	a := r.Artifacts[q.Path]
	if a == nil {
		return nil
	}
	for _, h := range a.File.Hashes {
		if q.Hash == "" || q.Hash == h.String() {
			return a.Data
		}
	}
	return nil
}

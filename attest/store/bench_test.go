package store

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"fmt"
	"path/filepath"
	"sync/atomic"
	"testing"
	"time"
)

// BenchmarkDecide is what every release waits for: one durable transaction.
func BenchmarkDecide(b *testing.B) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		b.Fatal(err)
	}
	ctx := context.Background()
	s, err := Open(ctx, Config{DSN: filepath.Join(b.TempDir(), "store.db"), Replica: "a", Signer: key})
	if err != nil {
		b.Fatal(err)
	}
	defer s.Close()
	if err := s.Enrol(ctx, Device{ID: id("a"), EKs: []string{id("a")}, State: Enrolled}, Event{}); err != nil {
		b.Fatal(err)
	}
	var n atomic.Int64
	b.SetParallelism(16)
	b.RunParallel(func(pb *testing.PB) {
		for pb.Next() {
			i := n.Add(1)
			d := Decision{Cookie: fmt.Sprint("c", i), ID: fmt.Sprint("d", i), Device: id("a"), Expires: time.Now(), Allow: true, Ack: "x"}
			if err := s.Decide(ctx, d); err != nil {
				b.Fatal(err)
			}
		}
	})
}

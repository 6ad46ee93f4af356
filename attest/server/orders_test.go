package server

import (
	"testing"

	"github.com/sealboot/sealboot/attest/store"
)

// TestOrderGivenWhileMachineBoots: an operator orders a repair of the floor when the machine has just asked for orders.
// It boots on, knowing of none, and its acknowledgement leaves the order to the next boot.
func TestOrderGivenWhileMachineBoots(t *testing.T) {
	l := newLab(t)
	m := l.machine(1)
	id := l.enrol(m)
	ctx := t.Context()
	repair, format := false, false // in force
	check := func(when string) {
		t.Helper()
		d, err := l.store.Device(ctx, id)
		if err != nil || (d.RepairFloor != nil) != repair || d.MayFormat != format {
			t.Errorf("%s: %+v, %v; want an order to repair %v, to format %v", when, d, err, repair, format)
		}
	}
	bootOnce := func(when string, between func() error) {
		t.Helper()
		m.tpm.Reset(t)
		hello, err := m.Hello(ctx, id)
		if err != nil || (hello.RepairFloor != nil) != repair {
			t.Fatalf("%s: hello says %+v, %v; want an order: %v", when, hello, err, repair)
		}
		if err := between(); err != nil {
			t.Fatal(err)
		}
		r, _ := boot(t, m, "good")
		if r.FirstBoot != format {
			t.Errorf("%s: first boot %v, want %v", when, r.FirstBoot, format)
		}
		if err := m.Ack(ctx, r); err != nil {
			t.Fatal(err)
		}
		format = false
		check(when)
	}
	nothing := func() error { return nil }
	format = true
	bootOnce("first boot", nothing)
	bootOnce("order given after hello", func() error {
		repair = true
		return l.store.RepairFloor(ctx, id, 0, store.Event{Kind: "floor"})
	})
	bootOnce("order to format given after hello", func() error {
		format = true
		repair = false // this boot has heard of the order before
		return l.store.AllowFormat(ctx, id, store.Event{Kind: "format"})
	})
	bootOnce("no order is left", nothing)
}

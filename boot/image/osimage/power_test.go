package osimage

import (
	"bytes"
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"

	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/sealboot/sealboot/boot/source/fetch"
	"github.com/sealboot/sealboot/measure/event"
)

var errPower = errors.New("no power")

// powerDisk is a disk in memory with a cache that loses what was not synced.
type powerDisk struct {
	synced, live []byte
	pending      []diskWrite
	left         int  // operations until something happens
	once         bool // which is that one operation fails, and not that there is no power any more
}

type diskWrite struct {
	at   int64
	data []byte
}

// newPowerDisk is a disk on which nothing happens.
func newPowerDisk(content []byte) *powerDisk {
	return &powerDisk{synced: bytes.Clone(content), live: bytes.Clone(content), left: 1 << 30}
}

func (d *powerDisk) op() error {
	d.left--
	if d.left == -1 || d.left < 0 && !d.once {
		return errPower
	}
	return nil
}

func (d *powerDisk) ReadAt(p []byte, at int64) (int, error) {
	if d.left < 0 && !d.once {
		return 0, errPower
	}
	return bytes.NewReader(d.live).ReadAt(p, at)
}

func (d *powerDisk) WriteAt(p []byte, at int64) (int, error) {
	err := d.op()
	if err == nil || d.left == -1 { // power goes while it is written
		copy(d.live[at:], p)
		d.pending = append(d.pending, diskWrite{at, bytes.Clone(p)})
	}
	return len(p), err
}

func (d *powerDisk) Sync() error {
	if err := d.op(); err != nil {
		return err
	}
	copy(d.synced, d.live)
	d.pending = nil
	return nil
}

func (d *powerDisk) Name() string        { return "powerdisk" }
func (d *powerDisk) uncache(int64) error { return nil }

// survivors are what may be on the disk after a power cut: of the writes that were not synced all, none, every other
// one, or all with the last one torn in two.
func (d *powerDisk) survivors() map[string][]byte {
	out := map[string][]byte{}
	for name, keep := range map[string]func(i int, w diskWrite) []byte{
		"all":  func(_ int, w diskWrite) []byte { return w.data },
		"none": func(int, diskWrite) []byte { return nil },
		"even": func(i int, w diskWrite) []byte { return w.data[:len(w.data)*(1-i%2)] },
		"odd":  func(i int, w diskWrite) []byte { return w.data[:len(w.data)*(i%2)] },
		"torn": func(i int, w diskWrite) []byte {
			if i == len(d.pending)-1 {
				return w.data[:len(w.data)/2]
			}
			return w.data
		},
	} {
		b := bytes.Clone(d.synced)
		for i, w := range d.pending {
			copy(b[w.at:], keep(i, w))
		}
		out[name] = b
	}
	return out
}

// writing is an image that is written to disk.
type writing struct {
	layer   ocispec.Descriptor
	want    event.Artifact
	content Content
}

func (w writing) to(t *testing.T, d *powerDisk) error {
	t.Helper()
	have, err := writeDisk(t.Context(), d, int64(len(d.live)), w.want, w.layer, w.content, nil)
	if err == nil && have != w.want {
		t.Errorf("the disk has %+v; want %+v", have, w.want)
	}
	return err
}

// TestPowerCutAtEveryWrite takes the power away at every operation on a disk that holds an older image, while the genuine
// image is written, and while a mirror sends another. At no moment is there a byte of the other, an older head
// before another body, or a head before its body is whole; and the next boot writes the image.
func TestPowerCutAtEveryWrite(t *testing.T) {
	const room, size = 6 << 20, 4<<20 + 512
	before, genuine, evil := marked("before", room), marked("genuine", size), marked("evil", size)
	store := blobs{}
	w := writing{layer: store.add(MediaTypeRaw, genuine, nil), want: art("disk", genuine), content: store}
	refused := w
	refused.content = untrue{blobs: store, content: evil, says: fetch.ErrDigest}
	for name, boot := range map[string]writing{"genuine": w, "evil": refused} {
		for _, once := range []bool{false, true} {
			steps := 0
			for ; ; steps++ {
				disk := newPowerDisk(before)
				disk.left, disk.once = steps, once
				err := boot.to(t, disk)
				if err == nil && name == "evil" {
					t.Fatal("the other image was accepted")
				}
				if !once && errors.Is(err, errPower) == (disk.left >= 0) { // one failure is survived if the image is begun again
					t.Fatalf("%s, step %d: %v, with %d steps left", name, steps, err, disk.left)
				}
				states := disk.survivors()
				if once { // the disk failed, and there was time to take back what was written
					states = map[string][]byte{"failed": disk.live}
				}
				for which, b := range states {
					wantUnbootable(t, fmt.Sprintf("%s, step %d, %s", name, steps, which), b, before, genuine)
					if which == "torn" && steps%3 == 0 {
						wantRepaired(t, b, w, refused)
					}
				}
				if disk.left >= 0 {
					break
				}
			}
			if steps < 10 {
				t.Errorf("%s: only %d steps", name, steps)
			}
		}
	}
}

// wantUnbootable checks the content of a disk that held before while genuine, or something else, was written to it.
func wantUnbootable(t *testing.T, when string, b, before, genuine []byte) {
	t.Helper()
	end := len(b) - veilBlock
	if bytes.Contains(b, []byte("evil ")) {
		t.Errorf("%s: there is something of the other image", when)
	}
	if bytes.Contains(b[:veilBlock], []byte("genuine ")) && !bytes.Equal(b[veilBlock:len(genuine)], genuine[veilBlock:]) {
		t.Errorf("%s: there is the image's head, and its body is not whole", when)
	}
	ends := slices.Concat(b[:veilBlock], b[end:])
	if !bytes.Equal(b[veilBlock:end], before[veilBlock:end]) && bytes.Contains(ends, []byte("before ")) {
		t.Errorf("%s: the older image's body was written over, and its ends are there", when)
	}
}

// wantRepaired boots from a disk with this content: the other image leaves nothing, then the genuine one is written.
func wantRepaired(t *testing.T, b []byte, genuine, other writing) {
	t.Helper()
	disk := newPowerDisk(b)
	if err := other.to(t, disk); !errors.Is(err, fetch.ErrDigest) || bytes.Contains(disk.live, []byte("evil ")) {
		t.Errorf("the other image, after a power cut: %v", err)
	}
	if err := genuine.to(t, disk); err != nil {
		t.Error(err)
	}
}

// badHead is a disk that reads its first sector wrong.
type badHead struct{ *powerDisk }

func (d badHead) ReadAt(p []byte, at int64) (int, error) {
	n, err := d.powerDisk.ReadAt(p, at)
	if at == 0 && n > 0 {
		p[0] ^= 1
	}
	return n, err
}

// TestWrongWhenReadBack has the disk garble what only the last reading can find: then nothing boots from it.
func TestWrongWhenReadBack(t *testing.T) {
	image := marked("genuine", 4<<20)
	store := blobs{}
	layer := store.add(MediaTypeRaw, image, nil)
	disk := badHead{newPowerDisk(make([]byte, 6<<20))}
	_, err := writeDisk(t.Context(), disk, 6<<20, art("disk", image), layer, store, nil)
	if err == nil || !strings.Contains(err.Error(), "does not give back") {
		t.Errorf("error is %v, want one that blames the disk", err)
	}
	if bytes.Contains(disk.live[:veilBlock], []byte("genuine ")) {
		t.Error("the disk has the image's head")
	}
}

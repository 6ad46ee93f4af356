package uki

import (
	"bytes"
	"encoding/binary"
	"errors"
	"hash/crc32"
	"io"
	"os/exec"
	"strings"
	"testing"

	"github.com/sealboot/sealboot/boot/image/xzstream"
	"github.com/sealboot/sealboot/measure/heaptest"
)

// TestHeap: headers are read and contents are streamed. A kernel that is compressed with zstd may ask for a window.
func TestHeap(t *testing.T) {
	for name, valid := range map[string][]byte{"stub": testStub(1024), "zboot": zbootOf("gzip", []byte("x")), "zboot, zstd": zbootOf("zstd", zstdHead())} {
		heaptest.Bound{Fixed: maxZstdWindow + 16<<20, PerByte: 2}.Mutated(t, name, valid, 1<<20, func(raw []byte) {
			r := bytes.NewReader(raw)
			if z, err := ParseZboot(r, int64(len(raw))); err == nil {
				_ = z.Unwrap(io.Discard, r, 1<<16)
			}
			_, _ = ParseBzImage(r, int64(len(raw)))
			_, _ = Parse(r, int64(len(raw)))
		})
		heaptest.Bound{Fixed: 1 << 20, PerByte: 2}.Mutated(t, name+", headers", valid, 1<<20, func(raw []byte) {
			r := bytes.NewReader(raw)
			_, _ = ParseZboot(r, int64(len(raw)))
			_, _ = ParseBzImage(r, int64(len(raw)))
			_, _ = Parse(r, int64(len(raw)))
		})
	}
}

// zstdHead is a frame with a window of 64 MiB and a block of one byte, 1,000 times.
func zstdHead() []byte {
	return []byte{0x28, 0xb5, 0x2f, 0xfd, 0, 16 << 3, 0x42, 0x1f, 0, 'x'}
}

// TestXZDictionary: each block of an xz payload names the dictionary that its decoder
// allocates, up to 4 GiB: eight blocks in 500 bytes took 33.5 GB.
func TestXZDictionary(t *testing.T) {
	if _, err := exec.LookPath("xz"); err != nil {
		t.Skip("xz is not installed")
	}
	cmd := exec.Command("xz", "-c", "--threads=1", "--check=crc32")
	cmd.Stdin = strings.NewReader("kernel")
	payload, err := cmd.Output()
	if err != nil {
		t.Fatal(err)
	}
	block := payload[12:] // behind the stream's header
	header := block[:(int(block[0])+1)*4]
	header[4] = 40 // of a dictionary of 4 GiB less one byte
	end := len(header) - 4
	binary.LittleEndian.PutUint32(header[end:], crc32.ChecksumIEEE(header[:end]))
	b := zbootOf("xzkern", payload)
	z, err := ParseZboot(bytes.NewReader(b), int64(len(b)))
	if err != nil {
		t.Fatal(err)
	}
	heaptest.Bound{Fixed: 16 << 20}.Total(t, "dictionary of 4 GiB", len(b), func() {
		if err := z.Unwrap(io.Discard, bytes.NewReader(b), 1<<16); !errors.Is(err, xzstream.ErrUnsupported) {
			t.Errorf("error %v, want ErrUnsupported", err)
		}
	})
}

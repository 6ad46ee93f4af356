package osimage

import (
	"bytes"
	"context"
	"encoding/binary"
	"fmt"
	"io"
	"os"
	"testing"

	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/sealboot/sealboot/boot/base/memfd"
	"github.com/sealboot/sealboot/measure/heaptest"
)

// config is a Content with one blob.
type config []byte

func (c config) Blob(context.Context, ocispec.Descriptor) (*os.File, error) {
	return memfd.Store("config", func(w *os.File) error { _, err := w.Write(c); return err })
}

func (c config) Stream(context.Context, ocispec.Descriptor, func(io.Reader) error) error {
	return ErrUnsupported
}

// TestHeap: an image without a pinned key has a manifest and a config without a signature.
func TestHeap(t *testing.T) {
	bound := heaptest.Bound{Fixed: 8 << 20, PerByte: 8}
	for _, form := range []string{`%s`, `{"schemaVersion":2,"layers":%s}`, `{"schemaVersion":2,"annotations":%s}`} {
		bound.JSON(t, form, maxManifest, func(raw []byte) { parseManifest(raw) })
	}
	for _, form := range []string{`{"history":%s}`, `{"config":{"Labels":%s}}`, `{"config":{"Env":%s}}`, `{"rootfs":{"diff_ids":%s}}`} {
		bound.JSON(t, form, maxConfig, func(raw []byte) {
			containerLabels(t.Context(), &ocispec.Manifest{Config: ocispec.Descriptor{Size: int64(len(raw))}}, config(raw))
		})
	}
	bound.JSON(t, `{"commandLine":%s}`, maxConfig, func(raw []byte) {
		m := &ocispec.Manifest{Config: ocispec.Descriptor{Size: int64(len(raw)), MediaType: ironcore + "config.v1"}}
		artifactCmdline(t.Context(), m, nil, config(raw))
	})
}

// zstdFrame is the head of a frame with a window of 2^bits bytes, and a block that says it is one byte, 128 KiB times.
func zstdFrame(bits byte) []byte {
	frame := []byte{0x28, 0xb5, 0x2f, 0xfd, 0, (bits - 10) << 3}
	block := uint32(128<<10)<<3 | 1<<1 // RLE, not the last
	return append(frame, append(binary.LittleEndian.AppendUint32(nil, block)[:3], 'x')...)
}

// TestDecompressorHeap: a few bytes ask for as large a window as there can be.
func TestDecompressorHeap(t *testing.T) {
	for bits := byte(20); bits <= 31; bits++ {
		raw := zstdFrame(bits)
		// The window, and the block that is written behind it.
		heaptest.Bound{Fixed: maxWindow + 16<<20}.Total(t, fmt.Sprintf("zstd, window 2^%d", bits), len(raw), func() {
			decompress("zstd", bytes.NewReader(raw), io.Discard)
		})
	}
	for _, compression := range []string{"gzip", "xz", ""} {
		heaptest.Bound{Fixed: 16 << 20}.Total(t, compression, 1<<20, func() {
			decompress(compression, bytes.NewReader(make([]byte, 1<<20)), io.Discard)
		})
	}
}

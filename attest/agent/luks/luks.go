// Package luks decides whether a disk may be opened or formatted, before cryptsetup sees it.
//
// Anyone who holds the machine can rewrite a LUKS2 header. A header that names the null cipher opens with
// any passphrase, and one with a token opens with none; the OS then mounts, and writes its secrets to, a volume of
// the attacker's. So the header is copied into memory, checked there by [Check], and cryptsetup is given the copy; the disk's own
// header is not looked at again. A disk is formatted only when it is blank.
package luks

import (
	"bytes"
	"crypto/sha256"
	"crypto/sha512"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"hash"
	"io"
	"strconv"

	"github.com/sealboot/sealboot/measure/strict"
)

var (
	// ErrNotLUKS says that there is no LUKS2 header.
	ErrNotLUKS = errors.New("no LUKS2 header")
	// ErrHeader says that a LUKS2 header is damaged or asks for what we never write.
	ErrHeader = errors.New("LUKS2 header is not acceptable")
)

// Cipher is the only encryption that a volume may have, for its data and for its key slots.
const Cipher = "aes-xts-plain64"

const (
	binarySize    = 4096     // the fixed part of a header; JSON follows
	maxHeaderSize = 4 << 20  // the largest header area LUKS2 knows
	maxOffset     = 64 << 20 // headers, key slots and data must not lie further apart
	minOffset     = 1 << 20  //
	keySize       = 64       // AES-256-XTS, in bytes
	stripes       = 4000     // the only number there is

	maxIterations = 1 << 26 // of PBKDF2: some 20 s
	maxMemory     = 1 << 20 // of Argon2, in KiB, and
	maxTime       = 64      // passes: what cryptsetup itself may choose
)

var (
	magic1 = []byte("LUKS\xba\xbe")
	magic2 = []byte("SKUL\xba\xbe")
)

// Detach reads the header of a volume, both copies and the key slots, and checks it. What it returns is
// what cryptsetup takes as a detached header.
func Detach(disk io.ReaderAt) ([]byte, error) {
	first := make([]byte, binarySize)
	if _, err := disk.ReadAt(first, 0); err != nil {
		return nil, fmt.Errorf("read volume header: %w", err)
	}
	if !bytes.HasPrefix(first, magic1) {
		return nil, ErrNotLUKS
	}
	size := binary.BigEndian.Uint64(first[8:])
	if size < 2*binarySize || size > maxHeaderSize {
		return nil, fmt.Errorf("%w: its size is %d bytes", ErrHeader, size)
	}
	head := make([]byte, 2*size)
	if _, err := disk.ReadAt(head, 0); err != nil {
		return nil, fmt.Errorf("read volume header: %w", err)
	}
	offset, err := Check(head)
	if err != nil {
		return nil, err
	}
	// One read brings what was checked and the key slots; the checked bytes are put over it, because a
	// disk may answer twice differently.
	whole := make([]byte, offset)
	if _, err := disk.ReadAt(whole, 0); err != nil {
		return nil, fmt.Errorf("read volume header: %w", err)
	}
	copy(whole, head)
	return whole, nil
}

// Check checks the two copies of a header, which must both be intact and say the same, and returns the
// offset of the data in bytes.
func Check(head []byte) (int64, error) {
	if len(head) < 4*binarySize || len(head)%2 != 0 {
		return 0, fmt.Errorf("%w: %d bytes", ErrHeader, len(head))
	}
	half := len(head) / 2
	one, err := area(head[:half], magic1, 0)
	if err != nil {
		return 0, err
	}
	two, err := area(head[half:], magic2, uint64(half))
	if err != nil {
		return 0, err
	}
	if !bytes.Equal(one, two) {
		return 0, fmt.Errorf("%w: its two copies differ", ErrHeader)
	}
	return metadata(one, int64(len(head)))
}

// area checks one copy of the header and returns its JSON.
func area(b, magic []byte, offset uint64) ([]byte, error) {
	be := binary.BigEndian
	if !bytes.HasPrefix(b, magic) || be.Uint16(b[6:]) != 2 {
		return nil, fmt.Errorf("%w: no LUKS2 header at %d", ErrHeader, offset)
	}
	if be.Uint64(b[8:]) != uint64(len(b)) || be.Uint64(b[256:]) != offset {
		return nil, fmt.Errorf("%w: header at %d is of another place or size", ErrHeader, offset)
	}
	var h hash.Hash
	switch alg, _, _ := bytes.Cut(b[72:104], []byte{0}); string(alg) {
	case "sha256":
		h = sha256.New()
	case "sha512":
		h = sha512.New()
	default:
		return nil, fmt.Errorf("%w: checksum algorithm %q", ErrHeader, alg)
	}
	h.Write(b[:448])
	h.Write(make([]byte, 64))
	h.Write(b[512:])
	if sum := h.Sum(nil); !bytes.Equal(sum, b[448:448+len(sum)]) {
		return nil, fmt.Errorf("%w: header at %d is damaged", ErrHeader, offset)
	}
	text, _, _ := bytes.Cut(b[binarySize:], []byte{0})
	return text, nil
}

// The metadata, with every field that we know. Others are refused.
type (
	meta struct {
		Keyslots map[string]keyslot         `json:"keyslots"`
		Tokens   map[string]json.RawMessage `json:"tokens"`
		Segments map[string]segment         `json:"segments"`
		Digests  map[string]digest          `json:"digests"`
		Config   config                     `json:"config"`
	}
	keyslot struct {
		Type     string     `json:"type"`
		KeySize  int        `json:"key_size"`
		AF       splitter   `json:"af"`
		Area     slotArea   `json:"area"`
		KDF      derivation `json:"kdf"`
		Priority *int       `json:"priority"`
	}
	splitter struct {
		Type    string `json:"type"`
		Stripes int    `json:"stripes"`
		Hash    string `json:"hash"`
	}
	derivation struct {
		Type       string `json:"type"`
		Hash       string `json:"hash"`
		Iterations int64  `json:"iterations"`
		Time       int64  `json:"time"`
		Memory     int64  `json:"memory"` // KiB
		CPUs       int64  `json:"cpus"`
		Salt       string `json:"salt"`
	}
	slotArea struct {
		Type       string `json:"type"`
		Offset     string `json:"offset"`
		Size       string `json:"size"`
		Encryption string `json:"encryption"`
		KeySize    int    `json:"key_size"`
	}
	segment struct {
		Type       string `json:"type"`
		Offset     string `json:"offset"`
		Size       string `json:"size"`
		IVTweak    string `json:"iv_tweak"`
		Encryption string `json:"encryption"`
		SectorSize int    `json:"sector_size"`
	}
	digest struct {
		Type       string   `json:"type"`
		Keyslots   []string `json:"keyslots"`
		Segments   []string `json:"segments"`
		Hash       string   `json:"hash"`
		Iterations int64    `json:"iterations"`
		Salt       string   `json:"salt"`
		Digest     string   `json:"digest"`
	}
	config struct {
		JSONSize     string   `json:"json_size"`
		KeyslotsSize string   `json:"keyslots_size"`
		Flags        []string `json:"flags"`
	}
)

func metadata(text []byte, headers int64) (int64, error) {
	var m meta
	// Strictly, because cryptsetup's parser reads the same text: it knows no "Encryption" next to "encryption".
	if err := strict.Decode(text, &m); err != nil {
		return 0, fmt.Errorf("%w: %w", ErrHeader, err)
	}
	if len(m.Tokens) > 0 {
		// cryptsetup tries tokens before the key that it is given. One for the TPM would open a volume of anyone who
		// made it, on any machine that has the plug-in.
		return 0, fmt.Errorf("%w: it has %d tokens, want none: only the key of this volume may open it", ErrHeader, len(m.Tokens))
	}
	s, ok := m.Segments["0"]
	if !ok || len(m.Segments) != 1 {
		return 0, fmt.Errorf("%w: %d segments, want one", ErrHeader, len(m.Segments))
	}
	if s.Type != "crypt" || s.Encryption != Cipher || s.Size != "dynamic" || s.IVTweak != "0" {
		return 0, fmt.Errorf("%w: its data is %q encrypted with %q, want %q", ErrHeader, s.Type, s.Encryption, Cipher)
	}
	offset, err := strconv.ParseInt(s.Offset, 10, 64)
	if err != nil || offset < max(minOffset, headers) || offset > maxOffset {
		return 0, fmt.Errorf("%w: its data begins at %q", ErrHeader, s.Offset)
	}
	if len(m.Keyslots) == 0 {
		return 0, fmt.Errorf("%w: it has no key slot", ErrHeader)
	}
	for n, d := range m.Digests {
		if d.Type != "pbkdf2" || !bearable(d.Iterations, maxIterations) {
			return 0, fmt.Errorf("%w: digest %s is a %q of %d iterations", ErrHeader, n, d.Type, d.Iterations)
		}
	}
	for n, k := range m.Keyslots {
		if err := k.check(n); err != nil {
			return 0, err
		}
	}
	return offset, nil
}

// check wants a key slot that only its key opens, and without using up the machine: an operator may have added one with
// cryptsetup's own parameters.
func (k keyslot) check(name string) error {
	if k.Type != "luks2" || k.KeySize != keySize || k.Area.Type != "raw" || k.Area.Encryption != Cipher || k.Area.KeySize != keySize {
		return fmt.Errorf("%w: key slot %s is %q of %d bytes encrypted with %q, want %q", ErrHeader, name, k.Type, k.KeySize, k.Area.Encryption, Cipher)
	}
	if k.AF.Type != "luks1" || k.AF.Stripes != stripes {
		return fmt.Errorf("%w: key slot %s is split by %q into %d", ErrHeader, name, k.AF.Type, k.AF.Stripes)
	}
	d, ok := k.KDF, false
	switch d.Type {
	case "pbkdf2":
		ok = bearable(d.Iterations, maxIterations)
	case "argon2i", "argon2id":
		ok = bearable(d.Memory, maxMemory) && bearable(d.Time, maxTime)
	}
	if !ok {
		return fmt.Errorf("%w: key slot %s wants %q of %d iterations, %d passes, %d KiB", ErrHeader, name, d.Type, d.Iterations, d.Time, d.Memory)
	}
	return nil
}

func bearable(n, most int64) bool { return n > 0 && n <= most }

// Blank tells whether a disk holds nothing: its first 16 MiB and its last MiB are zero. Partition tables,
// file systems, RAID and LUKS all leave traces there. Size is the disk's, in bytes.
func Blank(disk io.ReaderAt, size int64) (bool, error) {
	const front, back = 16 << 20, 1 << 20
	if size < front {
		return false, fmt.Errorf("disk of %d bytes is too small: want at least %d", size, front)
	}
	for _, r := range []*io.SectionReader{io.NewSectionReader(disk, 0, front), io.NewSectionReader(disk, size-back, back)} {
		zero, err := allZero(r)
		if err != nil || !zero {
			return false, err
		}
	}
	return true, nil
}

func allZero(r io.Reader) (bool, error) {
	buf, zero := make([]byte, 1<<16), make([]byte, 1<<16)
	for {
		n, err := io.ReadFull(r, buf)
		if !bytes.Equal(buf[:n], zero[:n]) {
			return false, nil
		}
		switch {
		case errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF):
			return true, nil
		case err != nil:
			return false, fmt.Errorf("read disk: %w", err)
		}
	}
}

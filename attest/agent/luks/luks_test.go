package luks

import (
	"bytes"
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// goodHeader was made by cryptsetup 2.6.1 with the options that the agent uses.
func goodHeader(t testing.TB) []byte {
	t.Helper()
	b, err := os.ReadFile(filepath.Join("testdata", "luks2.header"))
	if err != nil {
		t.Fatal(err)
	}
	return b
}

// edit changes the JSON of both copies and repairs their checksums, as an attacker would.
func edit(head []byte, old, new string) []byte {
	out := bytes.Clone(head)
	half := len(out) / 2
	for _, b := range [][]byte{out[:half], out[half:]} {
		text, _, _ := bytes.Cut(b[binarySize:], []byte{0})
		text = bytes.Replace(text, []byte(old), []byte(new), 1)
		clear(b[binarySize:])
		copy(b[binarySize:], text)
		clear(b[448:512])
		sum := sha256.Sum256(b)
		copy(b[448:], sum[:])
	}
	return out
}

func TestCheck(t *testing.T) {
	head := goodHeader(t)
	if off, err := Check(head); err != nil || off != 16<<20 {
		t.Fatalf("Check = %d, %v", off, err)
	}
	if _, err := Check(edit(head, "x", "x")); err != nil {
		t.Fatalf("the test's own editing breaks a header: %v", err)
	}
	kdf := `"kdf":{"type":"pbkdf2","hash":"sha256","iterations":1000`
	// What an operator adds, to open the volume without attestd.
	recovery := edit(head, kdf, `"kdf":{"type":"argon2id","time":5,"memory":1048576,"cpus":4`)
	if _, err := Check(recovery); err != nil {
		t.Errorf("a key slot as cryptsetup makes by itself: %v", err)
	}
	slot := `"area":{"type":"raw","offset":"32768","size":"258048","encryption":"aes-xts-plain64"`
	for name, e := range map[string][2]string{
		"null cipher in a key slot": {slot, strings.Replace(slot, Cipher, "cipher_null-ecb", 1)},
		"null cipher for the data":  {`"iv_tweak":"0","encryption":"aes-xts-plain64"`, `"iv_tweak":"0","encryption":"cipher_null-ecb"`},
		"linear segment":            {`"type":"crypt"`, `"type":"linear"`},
		"reencryption":              {`"type":"luks2"`, `"type":"reencrypt"`},
		"requirements":              {`"config":{`, `"config":{"requirements":{"mandatory":["x"]},`},
		"short key":                 {`"key_size":64`, `"key_size":32`},
		"offset inside the header":  {`"offset":"16777216"`, `"offset":"4096"`},
		"huge offset":               {`"offset":"16777216"`, `"offset":"99999999999999"`},
		"negative offset":           {`"offset":"16777216"`, `"offset":"-16777216"`},
		"unknown field":             {`"tokens":{`, `"x":1,"tokens":{`},
		"cut JSON":                  {`"config"`, "\x00"},
		"a token":                   {`"tokens":{`, `"tokens":{"0":{"type":"systemd-tpm2","keyslots":["0"]}`},
		"repeated segments":         {`"segments":{`, `"segments":{},"segments":{`},
		// cryptsetup reads the first, encoding/json takes the last for the same field.
		"data cipher in two cases": {`"encryption":"aes-xts-plain64","sector_size"`,
			`"encryption":"cipher_null-ecb","Encryption":"aes-xts-plain64","sector_size"`},
		"key slot cipher in two cases": {slot, strings.Replace(slot, `"encryption":"`+Cipher+`"`,
			`"encryption":"cipher_null-ecb","ENCRYPTION":"`+Cipher+`"`, 1)},
		"segments in two cases": {`"segments":{`, `"segments":{"0":{"type":"linear","offset":"16777216","size":"dynamic"}},"Segments":{`},
		"something behind":      {`"config":{`, `"config":{}}{"config":{`},
		"two segments":          {`"segments":{`, `"segments":{"1":{"type":"linear","offset":"0","size":"dynamic"},`},
		"segment of a number":   {`"segments":{"0"`, `"segments":{"1"`},
		"segment of fixed size": {`"size":"dynamic"`, `"size":"512"`},
		"other sector numbers":  {`"iv_tweak":"0"`, `"iv_tweak":"9"`},
		"a key slot of hours":   {kdf, `"kdf":{"type":"pbkdf2","hash":"sha256","iterations":4294967295`},
		"a digest of hours":     {`"hash":"sha256","iterations":1000,"salt":"hwYG`, `"hash":"sha256","iterations":4294967295,"salt":"hwYG`},
		"a key slot of 4 GiB":   {kdf, `"kdf":{"type":"argon2id","time":4,"memory":4194304,"cpus":4`},
		"many passes":           {kdf, `"kdf":{"type":"argon2id","time":100000,"memory":1048576,"cpus":4`},
		"another derivation":    {kdf, `"kdf":{"type":"x","hash":"sha256","iterations":1000`},
		"another splitter":      {`"type":"luks1","stripes":4000`, `"type":"luks1","stripes":2147483647`},
	} {
		bad := edit(head, e[0], e[1])
		if bytes.Equal(bad, edit(head, "x", "x")) {
			t.Errorf("%s: the edit has no effect", name)
		}
		if _, err := Check(bad); !errors.Is(err, ErrHeader) {
			t.Errorf("%s: %v, want ErrHeader", name, err)
		}
	}
}

func TestCheckNeedsBothCopies(t *testing.T) {
	head := goodHeader(t)
	half := len(head) / 2
	for _, i := range []int{0, 6, 8, 72, 100, 256, 448, binarySize + 3, half, half + 8, half + binarySize + 3} {
		bad := bytes.Clone(head)
		bad[i] ^= 1
		if _, err := Check(bad); !errors.Is(err, ErrHeader) {
			t.Errorf("byte %d flipped: %v, want ErrHeader", i, err)
		}
	}
	// Each copy intact, but not the same: cryptsetup would take the newer.
	other := edit(head, `"iterations":1000`, `"iterations":1001`)
	mixed := append(bytes.Clone(head[:half]), other[half:]...)
	if _, err := Check(mixed); !errors.Is(err, ErrHeader) {
		t.Errorf("two different copies: %v, want ErrHeader", err)
	}
}

// TestHeaderFields changes the fixed part of one copy and repairs its checksum.
func TestHeaderFields(t *testing.T) {
	head := goodHeader(t)
	half := len(head) / 2
	for name, change := range map[string]func(b []byte){
		"version 1":         func(b []byte) { b[7] = 1 },
		"magic of neither":  func(b []byte) { b[0]++ },
		"another size":      func(b []byte) { b[13]++ },
		"another place":     func(b []byte) { b[263]++ },
		"unknown checksum":  func(b []byte) { copy(b[72:], "sha1\x00\x00\x00") },
		"no checksum named": func(b []byte) { clear(b[72:104]) },
	} {
		for _, at := range []int{0, half} {
			bad := bytes.Clone(head)
			b := bad[at : at+half]
			change(b)
			clear(b[448:512])
			sum := sha256.Sum256(b)
			copy(b[448:], sum[:])
			if _, err := Check(bad); !errors.Is(err, ErrHeader) {
				t.Errorf("%s in the copy at %d: %v, want ErrHeader", name, at, err)
			}
		}
	}
	for _, size := range []int{0, 2 * binarySize, len(head) + 1} {
		if _, err := Check(append(bytes.Clone(head), 0)[:size]); !errors.Is(err, ErrHeader) {
			t.Errorf("%d bytes: %v, want ErrHeader", size, err)
		}
	}
}

// TestDetachIsBounded: the header says how much memory it takes.
func TestDetachIsBounded(t *testing.T) {
	for _, size := range []uint64{0, 2*binarySize - 1, maxHeaderSize + 1, 1 << 62} {
		disk := make([]byte, 17<<20)
		copy(disk, goodHeader(t))
		binary.BigEndian.PutUint64(disk[8:], size)
		if _, err := Detach(bytes.NewReader(disk)); !errors.Is(err, ErrHeader) {
			t.Errorf("size %d: %v, want ErrHeader", size, err)
		}
	}
}

// twoFaced shows another header at the second read.
type twoFaced struct {
	first, second []byte
	reads         int
}

func (d *twoFaced) ReadAt(p []byte, off int64) (int, error) {
	d.reads++
	if d.reads > 2 {
		return bytes.NewReader(d.second).ReadAt(p, off)
	}
	return bytes.NewReader(d.first).ReadAt(p, off)
}

func TestDetach(t *testing.T) {
	head := goodHeader(t)
	disk := make([]byte, 17<<20)
	copy(disk, head)
	evil := bytes.Clone(disk)
	copy(evil, edit(head, Cipher, "cipher_null-ecb"))
	got, err := Detach(&twoFaced{first: disk, second: evil})
	if err != nil || len(got) != 16<<20 || !bytes.Equal(got[:len(head)], head) {
		t.Errorf("the detached header is not the one that was checked (%v)", err)
	}
	if _, err := Detach(bytes.NewReader(make([]byte, 1<<20))); !errors.Is(err, ErrNotLUKS) {
		t.Errorf("blank disk: %v, want ErrNotLUKS", err)
	}
	if _, err := Detach(bytes.NewReader(disk[:1<<20])); err == nil {
		t.Error("a truncated disk was accepted")
	}
	if _, err := Detach(bytes.NewReader(nil)); err == nil {
		t.Error("an empty disk was accepted")
	}
}

func TestBlank(t *testing.T) {
	const size = 20 << 20
	for name, c := range map[string]struct {
		at   int
		want bool
	}{
		"zeros": {-1, true}, "first byte": {0, false}, "in front": {8 << 20, false}, "end of front": {16<<20 - 1, false},
		"last byte": {size - 1, false}, "in the middle": {17 << 20, true},
	} {
		disk := make([]byte, size)
		if c.at >= 0 {
			disk[c.at] = 1
		}
		if got, err := Blank(bytes.NewReader(disk), size); err != nil || got != c.want {
			t.Errorf("%s: Blank = %v, %v, want %v", name, got, err, c.want)
		}
	}
	for _, size := range []int64{0, 16<<20 - 1} {
		if _, err := Blank(bytes.NewReader(make([]byte, size)), size); err == nil || !strings.Contains(err.Error(), "too small") {
			t.Errorf("a disk of %d bytes: %v, want that it is too small", size, err)
		}
	}
}

func FuzzCheck(f *testing.F) {
	f.Add([]byte("LUKS\xba\xbe\x00\x02"))
	f.Fuzz(func(t *testing.T, b []byte) {
		if off, err := Check(b); err == nil && (off < minOffset || off > maxOffset) {
			t.Errorf("accepted an offset of %d", off)
		} else if err != nil && !errors.Is(err, ErrHeader) {
			t.Errorf("untyped error: %v", err)
		}
	})
}

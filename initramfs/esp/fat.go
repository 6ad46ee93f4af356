package esp

import (
	"encoding/binary"
	"fmt"
	"maps"
	"slices"
)

// The layout of the FAT16 volume, in sectors.
const (
	clusterSectors = 4
	clusterSize    = clusterSectors * sector
	reserved       = 1
	fatSectors     = 128 // 2 bytes a cluster, 32768 clusters
	rootEntries    = 512
	rootStart      = reserved + 2*fatSectors
	dataStart      = rootStart + rootEntries*entrySize/sector
	clusters       = (partSize - dataStart) / clusterSectors
	entrySize      = 32
)

const (
	attrDirectory = 0x10
	attrArchive   = 0x20
	endOfChain    = 0xffff
)

// volume is a FAT16 file system being filled.
type volume struct {
	data []byte
	next int // next free cluster; the first is 2
}

func newVolume(data []byte, serial uint32) *volume {
	le := binary.LittleEndian
	boot := data[:sector]
	copy(boot, []byte{0xeb, 0x3c, 0x90})
	copy(boot[3:], "SEALBOOT")
	le.PutUint16(boot[11:], sector)
	boot[13] = clusterSectors
	le.PutUint16(boot[14:], reserved)
	boot[16] = 2
	le.PutUint16(boot[17:], rootEntries)
	boot[21] = 0xf8
	le.PutUint16(boot[22:], fatSectors)
	le.PutUint16(boot[24:], 63)
	le.PutUint16(boot[26:], 255)
	le.PutUint32(boot[28:], partStart)
	le.PutUint32(boot[32:], partSize)
	boot[36] = 0x80
	boot[38] = 0x29
	le.PutUint32(boot[39:], serial)
	copy(boot[43:], "SEALBOOT   FAT16   ")
	boot[510], boot[511] = 0x55, 0xaa

	v := &volume{data: data, next: 2}
	v.link(0, 0xfff8)
	v.link(1, endOfChain)
	return v
}

// link sets the entry of a cluster in both tables.
func (v *volume) link(cluster int, value uint16) {
	for table := range 2 {
		at := (reserved+table*fatSectors)*sector + 2*cluster
		binary.LittleEndian.PutUint16(v.data[at:], value)
	}
}

// store puts content into a chain of clusters and returns the first.
func (v *volume) store(content []byte) (int, error) {
	n := (len(content) + clusterSize - 1) / clusterSize
	if n == 0 {
		return 0, nil
	}
	if v.next+n > clusters+2 {
		return 0, fmt.Errorf("%w: they need more than the %d MiB of the partition", ErrFiles, partSize*sector>>20)
	}
	first := v.next
	for i := range n {
		v.link(first+i, uint16(first+i+1))
	}
	v.link(first+n-1, endOfChain)
	copy(v.data[dataStart*sector+(first-2)*clusterSize:], content)
	v.next += n
	return first, nil
}

// directory is a directory being filled.
type directory struct {
	entries []byte
	dirs    map[[11]byte]*directory
	order   [][11]byte // of dirs, as first seen
}

func newDirectory() *directory { return &directory{dirs: map[[11]byte]*directory{}} }

// addTree stores all files, in the order of their names, and then the directories.
func (v *volume) addTree(files map[string][]byte) error {
	root := newDirectory()
	for _, name := range slices.Sorted(maps.Keys(files)) {
		dirs, base, err := splitPath(name)
		if err != nil {
			return err
		}
		at := root
		for _, d := range dirs {
			if at.dirs[d] == nil {
				at.dirs[d] = newDirectory()
				at.order = append(at.order, d)
			}
			at = at.dirs[d]
		}
		cluster, err := v.store(files[name])
		if err != nil {
			return err
		}
		at.entries = append(at.entries, entry(base, attrArchive, cluster, len(files[name]))...)
	}
	return v.finish(root)
}

// finish writes the root directory: a label, the directories, the files.
func (v *volume) finish(root *directory) error {
	content := entry([11]byte([]byte("SEALBOOT   ")), 0x08, 0, 0)
	directories, err := v.directories(root, 0)
	if err != nil {
		return err
	}
	content = append(append(content, directories...), root.entries...)
	if len(content) > rootEntries*entrySize {
		return fmt.Errorf("%w: more than %d of them", ErrFiles, rootEntries)
	}
	copy(v.data[rootStart*sector:], content)
	return nil
}

// directories stores the directories in d, whose own first cluster is self, and returns
// their directory entries.
func (v *volume) directories(d *directory, self int) ([]byte, error) {
	var entries []byte
	for _, name := range d.order {
		sub := d.dirs[name]
		// The cluster is taken first, since the entries inside name it.
		size := entrySize * (2 + len(sub.order) + len(sub.entries)/entrySize)
		cluster, err := v.store(make([]byte, size))
		if err != nil {
			return nil, err
		}
		inner, err := v.directories(sub, cluster)
		if err != nil {
			return nil, err
		}
		content := entry([11]byte([]byte(".          ")), attrDirectory, cluster, 0)
		content = append(content, entry([11]byte([]byte("..         ")), attrDirectory, self, 0)...)
		content = append(append(content, inner...), sub.entries...)
		copy(v.data[dataStart*sector+(cluster-2)*clusterSize:], content)
		entries = append(entries, entry(name, attrDirectory, cluster, 0)...)
	}
	return entries, nil
}

// entry returns a directory entry dated 1 January 1980, the first day there is.
func entry(name [11]byte, attr byte, cluster, size int) []byte {
	e := make([]byte, entrySize)
	copy(e, name[:])
	e[11] = attr
	const firstDay = 1<<5 | 1
	for _, at := range []int{16, 18, 24} {
		binary.LittleEndian.PutUint16(e[at:], firstDay)
	}
	binary.LittleEndian.PutUint16(e[26:], uint16(cluster))
	binary.LittleEndian.PutUint32(e[28:], uint32(size))
	return e
}

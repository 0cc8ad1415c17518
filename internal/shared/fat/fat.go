// Package fat writes FAT32 volumes in one go, the same bytes for the same
// input, and reads them back without a mount.
//
// The writer knows all files beforehand and makes each one contiguous run of
// clusters, so that /init can map a root with dm-linear without a filesystem
// driver, and a slot can be compared block by block. The reader reads any FAT32
// volume, fragmented or not. Sources: Microsoft's "FAT: General
// Overview of On-Disk Format" 1.03; what the firmware accepts is
// docs/platform.md 1.5.
package fat

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"time"
)

const (
	sectorSize = 512
	entrySize  = 32 // one directory entry

	// minClusters is where FAT32 begins: readers tell FAT16 from FAT32 by
	// the number of clusters alone, the firmware too (docs/platform.md 1.5).
	minClusters = 65525
	maxClusters = 0x0ffffff5

	endOfChain = 0x0fffffff
	mediaFixed = 0xf8

	attrReadOnly = 0x01
	attrVolume   = 0x08
	attrDir      = 0x10
	attrArchive  = 0x20
	attrLongName = 0x0f
)

// geometry is the layout of a volume, from its boot sector, in sectors.
type geometry struct {
	total      uint32 // sectors of the volume
	perCluster uint32
	reserved   uint32 // before the first FAT
	fatSectors uint32 // of one FAT; there are always two
	rootDir    uint32 // first cluster of the root directory
	hidden     uint32 // sectors before the partition
	volumeID   uint32
	label      string
}

func (g geometry) dataStart() uint32 { return g.reserved + 2*g.fatSectors }
func (g geometry) clusters() uint32  { return (g.total - g.dataStart()) / g.perCluster }
func (g geometry) clusterSize() int64 {
	return int64(g.perCluster) * sectorSize
}

// offset returns the offset of a cluster, in bytes from the start of the volume.
func (g geometry) offset(cluster uint32) int64 {
	return int64(g.dataStart())*sectorSize + int64(cluster-2)*g.clusterSize()
}

// encode returns the boot sector.
func (g geometry) encode() []byte {
	s := make([]byte, sectorSize)
	copy(s, []byte{0xeb, 0x58, 0x90}) // jmp to the end of the fields, nop
	copy(s[3:], "PIKELET ")
	le := binary.LittleEndian
	le.PutUint16(s[11:], sectorSize)
	s[13] = byte(g.perCluster)
	le.PutUint16(s[14:], uint16(g.reserved))
	s[16] = 2 // FATs
	s[21] = mediaFixed
	le.PutUint16(s[24:], 63)  // sectors per track and
	le.PutUint16(s[26:], 255) // heads: what LBA-translated disks report
	le.PutUint32(s[28:], g.hidden)
	le.PutUint32(s[32:], g.total)
	le.PutUint32(s[36:], g.fatSectors)
	le.PutUint32(s[44:], g.rootDir)
	le.PutUint16(s[48:], fsInfoSector)
	le.PutUint16(s[50:], backupBootSector)
	s[64] = 0x80 // drive number
	s[66] = 0x29 // the three fields that follow are present
	le.PutUint32(s[67:], g.volumeID)
	copy(s[71:82], padded(g.label, 11))
	copy(s[82:90], "FAT32   ")
	s[510], s[511] = 0x55, 0xaa
	return s
}

const (
	fsInfoSector     = 1
	backupBootSector = 6
)

// decodeGeometry reads a boot sector and refuses an invalid FAT32.
func decodeGeometry(s []byte) (geometry, error) {
	le := binary.LittleEndian
	bad := func(what string) (geometry, error) {
		return geometry{}, fmt.Errorf("reading a FAT32 boot sector: %s", what)
	}
	if len(s) < sectorSize || s[510] != 0x55 || s[511] != 0xaa {
		return bad("the last two bytes are not 55 aa")
	}
	if n := le.Uint16(s[11:]); n != sectorSize {
		return bad(fmt.Sprintf("%d-byte sectors, only 512 are supported", n))
	}
	g := geometry{
		perCluster: uint32(s[13]),
		reserved:   uint32(le.Uint16(s[14:])),
		hidden:     le.Uint32(s[28:]),
		total:      le.Uint32(s[32:]),
		fatSectors: le.Uint32(s[36:]),
		rootDir:    le.Uint32(s[44:]),
		volumeID:   le.Uint32(s[67:]),
		label:      string(bytes.TrimRight(s[71:82], " ")),
	}
	switch {
	case g.perCluster == 0 || g.perCluster&(g.perCluster-1) != 0:
		return bad(fmt.Sprintf("%d sectors in a cluster", g.perCluster))
	case s[16] != 2 || le.Uint16(s[17:]) != 0 || le.Uint16(s[22:]) != 0:
		return bad("a FAT12 or FAT16 header, or not two FATs")
	case g.reserved == 0 || g.fatSectors == 0 || g.fatSectors > g.total/2 || g.dataStart() >= g.total:
		return bad("the FATs do not fit the volume")
	case g.clusters() < minClusters || g.clusters() > maxClusters:
		return bad(fmt.Sprintf("%d clusters, too few or too many for FAT32", g.clusters()))
	case (g.clusters()+2+127)/128 > g.fatSectors:
		return bad("the FATs are too short for the clusters")
	case g.rootDir < 2 || g.rootDir >= g.clusters()+2:
		return bad("the root directory is outside the volume")
	}
	return g, nil
}

// plan returns the geometry of a new volume of size bytes.
//
// Clusters are 512 bytes up to 256 MiB and 2 KiB above: one and four sectors
// are the two sizes the firmware's maintainers test (docs/platform.md 1.5). The
// data area begins on a 64 KiB border, so that alignment inside the volume is
// alignment on the card, partitions lying on whole MiB.
func plan(size int64) (geometry, error) {
	g := geometry{total: uint32(size / sectorSize), perCluster: 1, rootDir: 2}
	if size > 256<<20 {
		g.perCluster = 4
	}
	if size%sectorSize != 0 || size > 1<<40 {
		return g, fmt.Errorf("a FAT32 volume of %d bytes: want a multiple of 512, at most 1 TiB", size)
	}
	g.fatSectors = (g.total/g.perCluster + 2 + 127) / 128
	const border = 64 << 10 / sectorSize
	start := (32 + 2*g.fatSectors + border - 1) / border * border
	g.reserved = start - 2*g.fatSectors
	if g.total < start || g.clusters() < minClusters {
		return g, fmt.Errorf("a FAT32 volume of %d bytes is too small: 34 MiB is the least that every Pi reads as FAT32", size)
	}
	return g, nil
}

// dosTime returns date and time in the form of directory entries: UTC, with a
// resolution of two seconds, from 1980 to 2107.
func dosTime(t time.Time) (date, clock uint16) {
	t = t.UTC()
	if t.Year() < 1980 {
		t = time.Date(1980, 1, 1, 0, 0, 0, 0, time.UTC)
	}
	return uint16(t.Year()-1980)<<9 | uint16(t.Month())<<5 | uint16(t.Day()),
		uint16(t.Hour())<<11 | uint16(t.Minute())<<5 | uint16(t.Second()/2)
}

func padded(s string, n int) []byte {
	b := bytes.Repeat([]byte{' '}, n)
	copy(b, s)
	return b
}

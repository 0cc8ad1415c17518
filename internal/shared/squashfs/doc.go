// Package squashfs writes squashfs 4.0 images with zstd or xz, the same bytes for
// the same input whatever the number of cores, and reads those that it wrote.
//
// The one library for this writes corrupt images
// (docs/decisions/0002-own-writers.md). The format is the kernel's
// fs/squashfs/squashfs_fs.h; tests check images with unsquashfs and the kernel.
// Not written: the export table (a node's root is never shared over NFS) and
// directory indexes (they only speed up lookups in directories with thousands of
// files).
package squashfs

// Sizes and marks of the format, as in squashfs_fs.h.
const (
	magic        = 0x73717368
	metadataSize = 8192 // bytes of a metadata block before compression
	invalidBlock = ^uint64(0)
	noFragment   = 0xffffffff
	noXattr      = 0xffffffff
	storedData   = 1 << 24 // in a data block's size word: not compressed
	storedMeta   = 1 << 15 // in a metadata block's header: not compressed

	flagNoXattrs   = 0x0200
	flagDuplicates = 0x0040

	typeDir     = 1
	typeFile    = 2
	typeSymlink = 3
	typeBlock   = 4
	typeChar    = 5
	typeFIFO    = 6
	typeSocket  = 7
	extended    = 7 // added to a type: the inode with more fields
)

// Generation is a number that changes whenever this package, or the zstd encoder
// pinned in go.mod, would write other bytes for the same tree. It is part of the
// manifest, so that a root can be reproduced from its listing.
const Generation = 3

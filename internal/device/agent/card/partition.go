package card

import (
	"os"
	"unsafe"

	"github.com/pikelet-os/pikelet/internal/device/agent/ioctl"
)

// From linux/blkpg.h.
const (
	blkpgResize = 3 // BLKPG_RESIZE_PARTITION
	blkpg       = 0x1269
)

type blkpgPartition struct {
	start, length int64 // bytes
	number        int32
	_             [64]byte
	_             [64]byte
	_             [4]byte
}

type blkpgArgument struct {
	op, _, length int32
	_             int32
	data          *blkpgPartition
}

// ResizePartition tells the kernel the new length of a partition, while the
// disk and its other partitions are in use.
func ResizePartition(f *os.File, number int, start, length int64) error {
	p := &blkpgPartition{start: start, length: length, number: int32(number)}
	return ioctl.Call(f, blkpg, &blkpgArgument{op: blkpgResize, length: int32(unsafe.Sizeof(*p)), data: p})
}

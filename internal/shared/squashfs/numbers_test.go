package squashfs

import (
	"archive/tar"
	"math"
	"strings"
	"testing"
	"time"
)

// TestOutOfRangeNumbers: an owner or a device number too large for the format is
// refused, and a time is clamped (plougher/squashfs-tools#315).
func TestOutOfRangeNumbers(t *testing.T) {
	plan := func(h tar.Header) error {
		h.Name = "f"
		_, err := Plan([]Entry{{Header: &h}}, nil, Options{})
		return err
	}
	for what, h := range map[string]tar.Header{
		"user":     {Typeflag: tar.TypeFifo, Uid: 1 << 32},
		"user -1":  {Typeflag: tar.TypeFifo, Uid: -1},
		"group":    {Typeflag: tar.TypeDir, Gid: 1 << 32},
		"major":    {Typeflag: tar.TypeChar, Devmajor: 1 << 12},
		"minor":    {Typeflag: tar.TypeBlock, Devminor: 1 << 20},
		"minor -1": {Typeflag: tar.TypeBlock, Devminor: -1},
	} {
		if err := plan(h); err == nil || !strings.Contains(err.Error(), `packing "`) || !strings.Contains(err.Error(), "bits") {
			t.Errorf("%s: %v", what, err)
		}
	}
	if err := plan(tar.Header{Typeflag: tar.TypeChar, Uid: math.MaxUint32, Devmajor: 1<<12 - 1, Devminor: 1<<20 - 1}); err != nil {
		t.Errorf("the highest numbers: %v", err)
	}
	for at, want := range map[int64]uint32{-1: 0, -62135596800: 0, 0: 0, 1700000000: 1700000000, math.MaxUint32: math.MaxUint32,
		1 << 32: math.MaxUint32} {
		if got := seconds(time.Unix(at, 0)); got != want {
			t.Errorf("the time %d is %d, want %d", at, got, want)
		}
	}
}

package builder

import (
	"context"
	"fmt"
	"io"
	"os"
	"sync"

	"github.com/klauspost/compress/zstd"

	"github.com/pikelet-os/pikelet/internal/shared/squashfs"
)

// frameSize is what of a disk image goes into one zstd frame. Frames stand
// alone, so several cores make them, and the bytes do not depend on how many;
// tools read one behind the other as one file.
const frameSize = 4 << 20

// compressDisk writes a disk image compressed with zstd. Holes are not read.
func compressDisk(ctx context.Context, image, name string, in Inputs) error {
	f, err := os.Open(image)
	if err != nil {
		return err
	}
	defer f.Close()
	st, err := f.Stat()
	if err != nil {
		return err
	}
	m := in.step("compressing the disk image", st.Size())
	out, err := os.Create(name)
	if err != nil {
		return err
	}
	defer out.Close()
	err = writeFrames(ctx, out, squashfs.NewBlockReader(f, st.Size(), frameSize), max(1, in.Workers), m)
	if err != nil {
		return fmt.Errorf("compressing %s: %w", image, err)
	}
	m.end()
	return out.Close()
}

// CompressDisk writes a disk image compressed with zstd, on so many cores. It
// is what a build with Inputs.Zstd does. progress may be nil.
func CompressDisk(ctx context.Context, image, name string, workers int, progress func(Progress)) error {
	return compressDisk(ctx, image, name, Inputs{Workers: workers, Progress: progress})
}

// frame is a block on its way through an encoder.
type frame struct {
	in, out []byte
	done    chan struct{}
}

// writeFrames compresses blocks on so many cores and writes them in order.
func writeFrames(ctx context.Context, to io.Writer, from *squashfs.BlockReader, workers int, m *meter) error {
	encoders := make(chan *zstd.Encoder, workers)
	for range workers {
		enc, err := zstd.NewWriter(nil, zstd.WithEncoderConcurrency(1), zstd.WithEncoderLevel(zstd.SpeedFastest))
		if err != nil {
			return err
		}
		defer enc.Close()
		encoders <- enc
	}
	free := make(chan []byte, 2*workers) // what may be in memory at once
	for range cap(free) {
		free <- make([]byte, frameSize)
	}
	zeros := sync.OnceValue(func() []byte {
		enc := <-encoders
		defer func() { encoders <- enc }()
		return enc.EncodeAll(make([]byte, frameSize), nil)
	})
	order := make(chan *frame, cap(free))
	wrote := make(chan error, 1)
	go func() {
		var failed error
		for f := range order {
			<-f.done
			if failed == nil {
				_, failed = to.Write(f.out)
			}
			m.add(int64(len(f.in)))
			free <- f.in[:frameSize]
		}
		wrote <- failed
	}()
	err := func() error {
		defer close(order)
		for {
			if err := ctx.Err(); err != nil {
				return err
			}
			f := &frame{in: <-free, done: make(chan struct{})}
			n, hole, err := from.Next(f.in)
			if err != nil || n == 0 {
				return err
			}
			f.in = f.in[:n]
			order <- f
			go func() {
				defer close(f.done)
				if hole && n == frameSize {
					f.out = zeros()
					return
				}
				if hole {
					clear(f.in)
				}
				enc := <-encoders
				f.out = enc.EncodeAll(f.in, nil)
				encoders <- enc
			}()
		}
	}()
	if werr := <-wrote; err == nil {
		err = werr
	}
	return err
}

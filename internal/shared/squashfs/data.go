package squashfs

import (
	"crypto/sha256"
	"fmt"
	"hash/fnv"
	"sync"
)

// fragment is a block with the tails of several files.
type fragment struct {
	start uint64
	size  uint32 // size word
}

// fileData locates the bytes of a regular file.
type fileData struct {
	*run
	fragment uint32
	offset   uint32
}

// run locates the whole blocks of a file. Files with the same whole blocks share
// a run, whatever their tails.
type run struct {
	start uint64
	sizes []uint32 // size words
}

type sum = [sha256.Size]byte

// fragmentsFrom decides where a fragment ends before it is full: in front of one in
// so many names, by a hash of the name alone. Otherwise a file that grew a little
// would move every tail behind it into another fragment, and a rebuild would
// compress all of them again.
const fragmentsFrom = 64

func beginsFragment(path string) bool {
	h := fnv.New32a()
	h.Write([]byte(path))
	return h.Sum32()%fragmentsFrom == 0
}

// dataWriter lays out the blocks of files in order, has workers compress them, and
// writes them in that order, so that the bytes do not depend on the workers' speed.
// A source feeds it with files.
type dataWriter struct {
	o         Options
	fragments []*fragment // each is filled in by the drain
	bySum     map[sum]*fileData
	byHead    map[sum]*run
	jobs      chan *job // to the workers
	order     chan *job // the same, to the drain
	filled    int       // bytes in the fragment being filled
}

// job is one block on its way through a worker to its place.
type job struct {
	work func(*Encoder) // done by a worker; nil for nothing
	done chan struct{}
	size uint32                // size word, known when done
	out  []byte                // the bytes to write, if they are in memory
	read func(to []byte) error // reads the bytes to write, if they are not
	err  error
	put  func(start uint64, size uint32) // called with the place of the block
	free func()                          // out was written
}

func newDataWriter(o Options) *dataWriter {
	return &dataWriter{o: o, bySum: map[sum]*fileData{}, byHead: map[sum]*run{}}
}

// run runs feed, which sends jobs, the workers, and drain, which takes finished jobs
// in order. It returns the first error of the three.
func (d *dataWriter) run(feed func() error, drain func(*job) error) error {
	depth := 8 * d.o.Workers // blocks in flight; this bounds the memory
	d.jobs, d.order = make(chan *job, depth), make(chan *job, depth)
	var workers sync.WaitGroup
	for range d.o.Workers {
		enc, err := d.o.Compression.NewEncoder()
		if err != nil {
			return err
		}
		workers.Add(1)
		go func() {
			defer workers.Done()
			defer enc.Close()
			for j := range d.jobs {
				j.work(enc)
				close(j.done)
			}
		}()
	}
	drained := make(chan error, 1)
	go func() {
		var failed error
		for j := range d.order { // after an error too, because feed and workers wait for it
			<-j.done
			if failed == nil {
				failed = j.err
			}
			if failed == nil {
				failed = drain(j)
			}
			if j.free != nil {
				j.free()
			}
		}
		drained <- failed
	}()
	err := feed()
	close(d.jobs)
	close(d.order)
	workers.Wait()
	if derr := <-drained; err == nil {
		err = derr
	}
	return err
}

func (d *dataWriter) send(j *job) {
	j.done = make(chan struct{})
	d.order <- j
	if j.work == nil {
		close(j.done)
		return
	}
	d.jobs <- j
}

// place returns the place of a tail: in the fragment being filled, or in a new one,
// in which case flush must send the one being filled first.
func (d *dataWriter) place(n *node, tail int, flush func()) {
	if d.filled+tail > d.o.Compression.BlockSize || d.filled > 0 && beginsFragment(n.path()) {
		flush()
		d.filled = 0
	}
	n.data.fragment, n.data.offset = uint32(len(d.fragments)), uint32(d.filled)
	d.filled += tail
}

// newFragment returns a callback for the place of the fragment being filled.
func (d *dataWriter) newFragment() func(start uint64, size uint32) {
	f := &fragment{}
	d.fragments = append(d.fragments, f)
	return func(start uint64, size uint32) { *f = fragment{start, size} }
}

// newRun returns a run for the whole blocks of a file, and a callback for the place
// of each.
func newRun(blocks int) (*run, func(i int) func(start uint64, size uint32)) {
	r := &run{sizes: make([]uint32, blocks)}
	return r, func(i int) func(uint64, uint32) {
		return func(start uint64, size uint32) {
			r.sizes[i] = size
			if i == 0 {
				r.start = start
			}
		}
	}
}

// noRun is for files without a whole block.
var noRun = &run{}

func packing(n *node, err error) error { return fmt.Errorf("packing %q: %w", n.path(), err) }

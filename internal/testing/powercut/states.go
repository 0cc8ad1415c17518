package powercut

import (
	"bytes"
	"errors"
	"fmt"
	"math/rand/v2"
)

// State is a card as a power cut may leave it: a number of an epoch's writes,
// some of them lost, one of them torn. An epoch is what was written between
// two flushes.
type State struct {
	Number int    // in its run; with the run's seed it says all
	Phase  string // what the epoch wrote
	Epoch  int
	Writes int // sectors that were written before the power went
	Lost   int // of those, how many are not on the card
	// Torn is the sector that holds bytes of old and new, -1 for none; Gone one
	// that cannot be read any more, -1 for none.
	Torn, Gone int64
	Facts      []string // what had been found out by then
	// Key is the same for two states only where all of the card is the same;
	// keys of the parts of a card that were named say so of those.
	Key  uint64
	Keys []uint64

	base *Card
	here map[int64][]byte
}

// ErrGone is what a sector answers that was being written when the power went,
// on a card that loses it altogether.
var ErrGone = errors.New("input/output error: the sector cannot be read")

// ReadAt implements io.ReaderAt.
func (s *State) ReadAt(b []byte, at int64) (int, error) {
	if _, err := s.base.ReadAt(b, at); err != nil {
		return 0, err
	}
	if s.Gone >= 0 && at/SectorSize <= s.Gone && s.Gone <= (at+int64(len(b))-1)/SectorSize {
		return 0, ErrGone
	}
	first, last := at/SectorSize, (at+int64(len(b))-1)/SectorSize
	if last-first < int64(len(s.here)) {
		for n := first; n <= last; n++ {
			if data := s.here[n]; data != nil {
				put(b, at, data, n)
			}
		}
		return len(b), nil
	}
	for n, data := range s.here {
		if n >= first && n <= last {
			put(b, at, data, n)
		}
	}
	return len(b), nil
}

// put copies what of a sector lies within b, which begins at a place.
func put(b []byte, at int64, sector []byte, n int64) {
	off := n*SectorSize - at
	if off >= 0 {
		copy(b[off:], sector)
		return
	}
	copy(b, sector[-off:])
}

// Card returns the state as a card of its own, that can be written to.
func (s *State) Card() *Card {
	c := s.base.Clone()
	for n, data := range s.here {
		c.WriteAt(data, n*SectorSize)
	}
	return c
}

// String says how to name the state.
func (s *State) String() string {
	text := fmt.Sprintf("state %d, %s: epoch %d, %d sectors written, %d of them lost", s.Number, s.Phase, s.Epoch, s.Writes, s.Lost)
	if s.Torn >= 0 {
		text += fmt.Sprintf(", sector %d torn", s.Torn)
	}
	if s.Gone >= 0 {
		text += fmt.Sprintf(", sector %d gone", s.Gone)
	}
	return text
}

// Part is a part of a card: what lies there names the phase of an epoch that
// writes there, the first part of a list first.
type Part struct {
	Name       string
	Start, End int64 // bytes
}

// Run is a recorded run, and what of it is to be judged.
type Run struct {
	Base  *Card
	Ops   []Op
	Parts []Part
	Seed  uint64
	// Each is how many states are made of an epoch, by its phase; Other of those
	// of a phase that is not named. An epoch of few writes has few states: no
	// more are made of it than it may have.
	Each  map[string]int
	Other int
	// Only is the number of the one state to make; -1 for all.
	Only int
	// Gone also makes states in which the sector that was being written cannot
	// be read any more.
	Gone bool
}

// epoch is what was written between two flushes, sector by sector.
type epoch struct {
	sectors []int64
	data    [][]byte
	op      []int // which op each belongs to
	first   int   // op it began with
}

// fact is what was found out before an operation.
type fact struct {
	op   int
	text string
}

// phase returns the name of the first part an epoch writes to.
func (r *Run) phase(e *epoch) string {
	for _, p := range r.Parts {
		for _, n := range e.sectors {
			if n*SectorSize >= p.Start && n*SectorSize < p.End {
				return p.Name
			}
		}
	}
	return "elsewhere"
}

// States makes the states of a run, one after the other.
func (r *Run) States(judge func(*State) error) error {
	at := r.Base.Clone()
	keys := r.keys()
	number, epochs := 0, 0
	var facts []fact
	for i, o := range r.Ops {
		if o.Fact != "" {
			facts = append(facts, fact{i, o.Fact})
		}
	}
	e := &epoch{}
	finish := func(end int) error {
		if len(e.sectors) == 0 {
			e = &epoch{first: end}
			return nil
		}
		phase := r.phase(e)
		n, named := r.Each[phase]
		if !named {
			n = r.Other
		}
		n = min(n, most(len(e.sectors)))
		for i := range n {
			if r.Only < 0 || r.Only == number {
				s := r.state(at, e, keys, facts, i, number)
				s.Phase, s.Epoch = phase, epochs
				if err := judge(s); err != nil {
					return err
				}
			}
			number++
		}
		for i, sector := range e.sectors {
			r.turn(keys, at, sector, e.data[i])
			at.WriteAt(e.data[i], sector*SectorSize)
		}
		epochs++
		e = &epoch{first: end}
		return nil
	}
	for i, o := range r.Ops {
		if o.Flush {
			if err := finish(i + 1); err != nil {
				return err
			}
			continue
		}
		for off := 0; off < len(o.Data); off += SectorSize {
			e.sectors = append(e.sectors, o.At/SectorSize+int64(off/SectorSize))
			e.data = append(e.data, o.Data[off:off+SectorSize])
			e.op = append(e.op, i)
		}
	}
	return finish(len(r.Ops))
}

// keys returns the keys of the base's parts, and of all of it.
func (r *Run) keys() []uint64 {
	keys := make([]uint64, len(r.Parts)+1)
	for n, page := range r.Base.pages {
		for off := 0; off < pageSize; off += SectorSize {
			r.change(keys, n*pageSize/SectorSize+int64(off/SectorSize), sum(n*pageSize/SectorSize+int64(off/SectorSize), page[off:off+SectorSize]))
		}
	}
	return keys
}

// most bounds how many states an epoch of so many sectors is worth: each may
// be the last, and torn in many places.
func most(sectors int) int {
	if sectors > 1000 {
		return 1 << 20
	}
	return 24 * sectors * (sectors + 1)
}

// turn changes keys by what a sector will hold.
func (r *Run) turn(keys []uint64, at *Card, sector int64, data []byte) {
	var old [SectorSize]byte
	at.ReadAt(old[:], sector*SectorSize)
	r.change(keys, sector, sum(sector, old[:])^sum(sector, data))
}

func (r *Run) change(keys []uint64, sector int64, change uint64) {
	keys[len(r.Parts)] ^= change
	for i, p := range r.Parts {
		if sector*SectorSize >= p.Start && sector*SectorSize < p.End {
			keys[i] ^= change
		}
	}
}

// state makes one state of an epoch, by its number alone. The first of an
// epoch are its plainest: nothing of it there, all of it there.
func (r *Run) state(at *Card, e *epoch, keys []uint64, facts []fact, i, number int) *State {
	random := rand.New(rand.NewPCG(r.Seed, uint64(number)))
	s := &State{Number: number, Torn: -1, Gone: -1, base: at, here: map[int64][]byte{}}
	n := len(e.sectors)
	lose := 0
	switch i {
	case 0:
		s.Writes = 0
	case 1:
		s.Writes = n
	default:
		s.Writes = 1 + random.IntN(n)
		if random.IntN(3) == 0 {
			s.Writes = n // the last ones are there, and something before them is not
		}
		lose = random.IntN(5)
	}
	few := map[int]bool{}
	if lose == 3 {
		for range 1 + random.IntN(3) {
			few[random.IntN(s.Writes)] = true
		}
	}
	for j := range s.Writes {
		lost := false
		switch lose {
		case 1:
			lost = random.IntN(2) == 0
		case 2:
			lost = random.IntN(20) != 0
		case 3:
			lost = few[j]
		}
		if lost {
			s.Lost++
			continue
		}
		s.here[e.sectors[j]] = e.data[j]
	}
	if i > 1 && random.IntN(2) == 0 {
		j := e.inFlight(at, s.Writes, random)
		r.tear(s, at, e.sectors[j], e.data[j], random)
	}
	last := e.first
	if s.Writes > 0 {
		last = e.op[s.Writes-1]
	}
	for _, f := range facts {
		if f.op < last {
			s.Facts = append(s.Facts, f.text)
		}
	}
	s.Keys = append([]uint64(nil), keys...)
	for sector, data := range s.here {
		r.turn(s.Keys, at, sector, data)
	}
	if s.Gone >= 0 {
		r.turn(s.Keys, at, s.Gone, []byte("gone"))
	}
	s.Key, s.Keys = s.Keys[len(r.Parts)], s.Keys[:len(r.Parts)]
	return s
}

// inFlight picks the sector that was being written when the power went: one of
// the last write's, and one whose bytes change, if there is any.
func (e *epoch) inFlight(at *Card, writes int, random *rand.Rand) int {
	var list []int
	old := make([]byte, SectorSize)
	for j := writes - 1; j >= 0 && e.op[j] == e.op[writes-1] && len(list) < 64; j-- {
		if at.ReadAt(old, e.sectors[j]*SectorSize); !bytes.Equal(old, e.data[j]) {
			list = append(list, j)
		}
	}
	if len(list) == 0 {
		return writes - 1
	}
	return list[random.IntN(len(list))]
}

// tear leaves a sector half written: new bytes up to some place and old ones
// behind it, or the other way round, or a piece of new ones in the middle, or
// any mix.
func (r *Run) tear(s *State, at *Card, sector int64, data []byte, random *rand.Rand) {
	if r.Gone && random.IntN(8) == 0 {
		s.Gone = sector
		return
	}
	torn := make([]byte, SectorSize)
	at.ReadAt(torn, sector*SectorSize)
	from, to := 0, random.IntN(SectorSize+1)
	switch random.IntN(4) {
	case 1:
		from, to = to, SectorSize
	case 2:
		from = random.IntN(to + 1)
	case 3:
		for i := range torn {
			if random.IntN(2) == 0 {
				torn[i] = data[i]
			}
		}
		from, to = 0, 0
	}
	copy(torn[from:to], data[from:to])
	s.here[sector], s.Torn = torn, sector
}

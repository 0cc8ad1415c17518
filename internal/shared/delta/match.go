package delta

import "bytes"

// piece is one step of a patch: add bytes of the new file are the old file's at
// from, each with a difference added; behind them come extra bytes of its own.
type piece struct {
	from       int64 // in the old file
	add, extra int64
}

// matches finds how new is made of old, as bsdiff does (Percival, Naive
// differences of executable code, 2003): long matches by a suffix array, each
// grown both ways as long as more than half of its bytes are equal, so that a
// program whose addresses moved is one match with small differences.
func matches(old, new []byte, order []int32) []piece {
	var list []piece
	m := matcher{old, new, order}
	// Of the match before: where it began in both, and how far they are apart.
	lastNew, lastOld, apart := 0, 0, 0
	at, length := 0, 0
	for scan := 0; scan < len(new); {
		same := 0 // bytes that the match before would have here too
		scan += length
		for ahead := scan; scan < len(new); scan++ {
			at, length = m.longest(scan)
			for ; ahead < scan+length; ahead++ {
				if m.equal(ahead, apart) {
					same++
				}
			}
			if length == same && length != 0 || length > same+minGain {
				break
			}
			if m.equal(scan, apart) {
				same--
			}
		}
		if length == same && scan != len(new) {
			continue // the match before goes on here
		}
		forward := m.forward(lastNew, lastOld, scan)
		back := 0
		if scan < len(new) {
			back = m.backward(scan, at, lastNew)
		}
		if over := lastNew + forward - (scan - back); over > 0 {
			keep := m.split(lastNew+forward-over, lastOld+forward-over, scan-back, at-back, over)
			forward += keep - over
			back -= keep
		}
		if p := (piece{from: int64(lastOld), add: int64(forward), extra: int64(scan - back - lastNew - forward)}); p.add > 0 || p.extra > 0 {
			list = append(list, p)
		}
		lastNew, lastOld, apart = scan-back, at-back, at-scan
	}
	return list
}

// minGain is how many bytes a new match must be better by than going on with the
// last one: a step costs about that.
const minGain = 8

type matcher struct {
	old, new []byte
	order    []int32
}

// equal reports whether a byte of the new file is the old one's, so far apart.
func (m matcher) equal(at, apart int) bool {
	o := at + apart
	return o >= 0 && o < len(m.old) && m.old[o] == m.new[at]
}

// longest returns the longest match of what is at a place of the new file.
func (m matcher) longest(scan int) (at, length int) {
	want := m.new[scan:]
	low, high := 0, len(m.order)
	for low < high {
		mid := int(uint(low+high) >> 1)
		if bytes.Compare(m.old[m.order[mid]:], want) < 0 {
			low = mid + 1
		} else {
			high = mid
		}
	}
	for _, i := range [2]int{low - 1, low} {
		if i < 0 || i >= len(m.order) {
			continue
		}
		if n := common(m.old[m.order[i]:], want); n > length {
			at, length = int(m.order[i]), n
		}
	}
	return at, length
}

// common returns how many bytes two slices begin with in common.
func common(a, b []byte) int {
	n := min(len(a), len(b))
	i := 0
	const step = 64
	for i+step <= n && bytes.Equal(a[i:i+step], b[i:i+step]) {
		i += step
	}
	for i < n && a[i] == b[i] {
		i++
	}
	return i
}

// forward returns how far the match at lastNew goes on towards scan.
func (m matcher) forward(lastNew, lastOld, scan int) (best int) {
	same, score := 0, 0
	for i := 0; lastNew+i < scan && lastOld+i < len(m.old); {
		if m.old[lastOld+i] == m.new[lastNew+i] {
			same++
		}
		if i++; 2*same-i > score {
			best, score = i, 2*same-i
		}
	}
	return best
}

// backward returns how far the match of scan with at begins before them.
func (m matcher) backward(scan, at, lastNew int) (best int) {
	same, score := 0, 0
	for i := 1; scan-i >= lastNew && at-i >= 0; i++ {
		if m.old[at-i] == m.new[scan-i] {
			same++
		}
		if 2*same-i > score {
			best, score = i, 2*same-i
		}
	}
	return best
}

// split returns how much of what two matches both cover is best left to the
// first one.
func (m matcher) split(new1, old1, new2, old2, over int) (best int) {
	score, top := 0, 0
	for i := range over {
		if m.new[new1+i] == m.old[old1+i] {
			score++
		}
		if m.new[new2+i] == m.old[old2+i] {
			score--
		}
		if score > top {
			best, top = i+1, score
		}
	}
	return best
}

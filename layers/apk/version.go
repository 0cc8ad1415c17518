package apk

import "strings"

// Tokens of a version, in the order apk-tools gives them
// (docs/platform.md 5.4): where two versions differ in kind, the one whose
// token comes first is the newer.
type token int

const (
	tokInitial token = iota
	tokDigit
	tokLetter
	tokSuffix
	tokSuffixNumber
	tokHash
	tokRevision
	tokEnd
	tokInvalid
)

// suffixes in their order; those before the empty one make a pre-release.
var suffixes = []string{"alpha", "beta", "pre", "rc", "", "cvs", "svn", "git", "hg", "p"}

const noSuffix = 4

// scanner splits a version into tokens.
type scanner struct {
	rest  string
	kind  token
	value string
	rank  int // of a suffix
}

func newScanner(v string) *scanner {
	s := &scanner{rest: v, kind: tokInitial}
	s.digits(tokInitial)
	return s
}

func (s *scanner) digits(kind token) {
	n := 0
	for n < len(s.rest) && s.rest[n] >= '0' && s.rest[n] <= '9' {
		n++
	}
	if n == 0 {
		s.kind = tokInvalid
		return
	}
	s.kind, s.value, s.rest = kind, s.rest[:n], s.rest[n:]
}

func (s *scanner) next() {
	if s.kind >= tokEnd {
		return
	}
	if s.rest == "" {
		s.kind = tokEnd
		return
	}
	c, before := s.rest[0], s.kind
	switch {
	case c == '.' && before <= tokDigit:
		s.rest = s.rest[1:]
		s.digits(tokDigit)
	case c >= 'a' && c <= 'z' && before <= tokDigit:
		s.kind, s.value, s.rest = tokLetter, s.rest[:1], s.rest[1:]
	case c == '_' && before <= tokSuffixNumber:
		n := 1
		for n < len(s.rest) && s.rest[n] >= 'a' && s.rest[n] <= 'z' {
			n++
		}
		word := s.rest[1:n]
		for rank, suffix := range suffixes {
			if suffix == word && word != "" {
				s.kind, s.value, s.rest, s.rank = tokSuffix, word, s.rest[n:], rank
				return
			}
		}
		s.kind = tokInvalid
	case c >= '0' && c <= '9' && before == tokSuffix:
		s.digits(tokSuffixNumber)
	case c == '~' && before < tokHash:
		n := 1
		for n < len(s.rest) && strings.IndexByte("0123456789abcdef", s.rest[n]) >= 0 {
			n++
		}
		if n == 1 {
			s.kind = tokInvalid
			return
		}
		s.kind, s.value, s.rest = tokHash, s.rest[1:n], s.rest[n:]
	case strings.HasPrefix(s.rest, "-r") && before < tokRevision:
		s.rest = s.rest[2:]
		s.digits(tokRevision)
	default:
		s.kind = tokInvalid
	}
}

// ValidVersion reports whether v follows the grammar.
func ValidVersion(v string) bool {
	s := newScanner(v)
	for s.kind < tokEnd {
		s.next()
	}
	return s.kind == tokEnd
}

// Compare returns -1, 0 or 1 as a is older than, the same as, or newer than b.
func Compare(a, b string) int { return compare(a, b, false) }

// compare is Compare, or with fuzzy set: 0 when b is a prefix of a.
func compare(a, b string, fuzzy bool) int {
	x, y := newScanner(a), newScanner(b)
	for x.kind == y.kind && x.kind < tokEnd {
		if c := compareToken(x, y); c != 0 {
			return c
		}
		x.next()
		y.next()
	}
	switch {
	case x.kind == y.kind:
		return 0
	case fuzzy && y.kind == tokEnd:
		return 0
	case x.kind == tokSuffix && x.rank < noSuffix:
		return -1
	case y.kind == tokSuffix && y.rank < noSuffix:
		return 1
	case x.kind > y.kind:
		return -1
	}
	return 1
}

func compareToken(x, y *scanner) int {
	switch x.kind {
	case tokDigit:
		if x.value[0] == '0' || y.value[0] == '0' {
			return strings.Compare(x.value, y.value)
		}
		return compareNumber(x.value, y.value)
	case tokInitial, tokSuffixNumber, tokRevision:
		return compareNumber(x.value, y.value)
	case tokSuffix:
		switch {
		case x.rank < y.rank:
			return -1
		case x.rank > y.rank:
			return 1
		}
		return 0
	}
	return strings.Compare(x.value, y.value)
}

// compareNumber compares runs of digits of any length.
func compareNumber(a, b string) int {
	a, b = strings.TrimLeft(a, "0"), strings.TrimLeft(b, "0")
	if len(a) != len(b) {
		if len(a) < len(b) {
			return -1
		}
		return 1
	}
	return strings.Compare(a, b)
}

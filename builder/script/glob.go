package script

import (
	"slices"
	"strings"
	"unicode/utf8"
)

// match reports whether a pattern of a shell stands for all of a text. The time it
// takes is that of the product of both lengths, which is counted as work.
func (m *machine) match(pattern, text string) bool {
	m.effort(len(text))
	p, t := 0, 0
	star, mark := -1, 0
	for t < len(text) {
		m.work++
		if p < len(pattern) && pattern[p] == '*' {
			star, mark = p, t
			p++
			continue
		}
		if p < len(pattern) {
			r, size := utf8.DecodeRuneInString(text[t:])
			if n, ok := m.matchOne(pattern[p:], r); ok {
				p, t = p+n, t+size
				continue
			}
		}
		if star < 0 {
			return false
		}
		_, size := utf8.DecodeRuneInString(text[mark:])
		mark += size
		p, t = star+1, mark
		m.effort(1)
	}
	for p < len(pattern) && pattern[p] == '*' {
		p++
	}
	return p == len(pattern)
}

// matchOne compares one sign of a pattern with a character, and returns the
// sign's length.
func (m *machine) matchOne(pattern string, r rune) (int, bool) {
	switch pattern[0] {
	case '?':
		return 1, true
	case '\\':
		if len(pattern) == 1 {
			return 1, r == '\\'
		}
		q, size := utf8.DecodeRuneInString(pattern[1:])
		return 1 + size, q == r
	case '[':
		if n, ok := m.matchSet(pattern, r); n > 0 {
			return n, ok
		}
	}
	q, size := utf8.DecodeRuneInString(pattern)
	return size, q == r
}

// matchSet compares a set such as [a-z] with a character; the length is 0 where it
// has no end and is none.
func (m *machine) matchSet(pattern string, r rune) (int, bool) {
	i := 1
	not := i < len(pattern) && (pattern[i] == '!' || pattern[i] == '^')
	if not {
		i++
	}
	found := false
	next := func() (rune, bool) {
		if i < len(pattern) && pattern[i] == '\\' && i+1 < len(pattern) {
			i++
		}
		q, size := utf8.DecodeRuneInString(pattern[i:])
		i += size
		return q, size > 0
	}
	for first := true; ; first = false {
		m.effort(1)
		if i >= len(pattern) {
			return 0, false
		}
		if pattern[i] == ']' && !first {
			return i + 1, found != not
		}
		if rest, is := strings.CutPrefix(pattern[i:], "[:"); is {
			if name, _, closed := strings.Cut(rest, ":]"); closed {
				found = found || inClass(name, r)
				i += len(name) + 4
				continue
			}
		}
		low, ok := next()
		if !ok {
			return 0, false
		}
		high := low
		if i+1 < len(pattern) && pattern[i] == '-' && pattern[i+1] != ']' {
			i++
			high, _ = next()
		}
		found = found || low <= r && r <= high
	}
}

// inClass reports whether a character of ASCII is in a class of POSIX.
func inClass(name string, r rune) bool {
	lower, upper, digit := r >= 'a' && r <= 'z', r >= 'A' && r <= 'Z', r >= '0' && r <= '9'
	graph := r > ' ' && r < 0x7f
	switch name {
	case "alpha":
		return lower || upper
	case "alnum":
		return lower || upper || digit
	case "digit":
		return digit
	case "lower":
		return lower
	case "upper":
		return upper
	case "space":
		return r == ' ' || r >= '\t' && r <= '\r'
	case "blank":
		return r == ' ' || r == '\t'
	case "punct":
		return graph && !(lower || upper || digit)
	case "print":
		return graph || r == ' '
	case "graph":
		return graph
	case "cntrl":
		return r < ' ' || r == 0x7f
	case "xdigit":
		return digit || r >= 'a' && r <= 'f' || r >= 'A' && r <= 'F'
	}
	return false
}

// glob returns the names of files that a field stands for, sorted, or the field
// itself where there are none. Links that lead nowhere are names too.
func (sh *shell) glob(f *field) []string {
	// [ is a command, and opens no set without an end.
	if !f.magic || sh.modes['f'] || f.text.String() == "[" {
		return []string{f.text.String()}
	}
	pattern := f.pattern.String()
	found := []string{""}
	if strings.HasPrefix(pattern, "/") {
		found = []string{"/"}
	}
	for rest := strings.TrimLeft(pattern, "/"); rest != ""; {
		part := rest
		slashes := ""
		if i := strings.IndexByte(rest, '/'); i >= 0 {
			part, rest = rest[:i], rest[i:]
			trimmed := strings.TrimLeft(rest, "/")
			slashes, rest = rest[:len(rest)-len(trimmed)], trimmed
		} else {
			rest = ""
		}
		var next []string
		for _, prefix := range found {
			sh.step()
			for _, name := range sh.namesLike(prefix, part) {
				if at, err := sh.view.resolve(sh.dir, prefix+name+slashes, false); err == nil && (at.node != nil || at.null) {
					next = append(next, prefix+name+slashes)
				}
			}
		}
		if found = next; len(found) > maxFields {
			sh.refuse(Limit, "more than %d files of one pattern", maxFields)
		}
	}
	if len(found) == 0 {
		return []string{f.text.String()}
	}
	slices.Sort(found)
	return found
}

// namesLike returns the names in a directory that one part of a pattern stands
// for; a part without signs stands for itself.
func (sh *shell) namesLike(dir, pattern string) []string {
	if !strings.ContainsAny(pattern, "*?[") {
		return []string{unquote(pattern)}
	}
	if dir == "" {
		dir = "."
	}
	at, err := sh.view.resolve(sh.dir, dir, true)
	if err != nil || at.node == nil || !at.node.isDir() {
		return nil
	}
	var list []string
	hidden := strings.HasPrefix(pattern, ".") || strings.HasPrefix(pattern, `\.`)
	names := sh.view.children(at.name)
	if hidden {
		names = append([]string{".", ".."}, names...)
	}
	for _, name := range names {
		if strings.HasPrefix(name, ".") == hidden && sh.match(pattern, name) {
			list = append(list, name)
		}
	}
	return list
}

// unquote takes the backslashes of a pattern away.
func unquote(pattern string) string {
	var b strings.Builder
	for i := 0; i < len(pattern); i++ {
		if pattern[i] == '\\' && i+1 < len(pattern) {
			i++
		}
		b.WriteByte(pattern[i])
	}
	return b.String()
}

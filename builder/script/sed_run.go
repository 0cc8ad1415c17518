package script

import (
	"strconv"
	"strings"
)

// sedState is where sed is in its input.
type sedState struct {
	c      *call
	lines  []string
	line   int // from 0
	space  string
	after  string // what a writes
	quiet  bool
	delete bool
	quit   bool
	out    strings.Builder
}

func (c *call) sedRun(list []*sedCommand, b []byte, quiet bool) []byte {
	s := &sedState{c: c, lines: lines(b), quiet: quiet}
	c.effort(8 * len(b) * max(1, len(list)))
	for ; s.line < len(s.lines) && !s.quit; s.line++ {
		s.space, s.delete, s.after = s.lines[s.line], false, ""
		s.run(list)
		if !s.delete && !quiet {
			s.put(s.space + "\n")
		}
		s.put(s.after)
	}
	text := s.out.String()
	if len(b) > 0 && b[len(b)-1] != '\n' && s.line == len(s.lines) && s.after == "" {
		text = strings.TrimSuffix(text, "\n")
	}
	return []byte(text)
}

func (s *sedState) put(text string) {
	if s.out.Len()+len(text) > maxWritten {
		s.c.refuse(Limit, "more than %d MiB written to files", maxWritten>>20)
	}
	s.out.WriteString(text)
}

func (s *sedState) is(a *sedAddress) bool {
	switch {
	case a.last:
		return s.line == len(s.lines)-1
	case a.re != nil:
		return a.re.MatchString(s.space)
	}
	return a.line == s.line+1
}

// selected reports whether a command is for this line.
func (s *sedState) selected(k *sedCommand) bool {
	switch {
	case k.from == nil:
		return true
	case k.to == nil:
		return s.is(k.from)
	case !k.inside:
		if !s.is(k.from) {
			return false
		}
		k.inside = k.to.re != nil || k.to.last && !s.is(k.to) || k.to.line > s.line+1
		return true
	}
	if s.is(k.to) || k.to.line > 0 && k.to.line <= s.line+1 {
		k.inside = false
	}
	return true
}

func (s *sedState) run(list []*sedCommand) {
	for _, k := range list {
		s.c.work++
		if s.c.effort(0); s.selected(k) == k.not {
			continue
		}
		switch k.name {
		case '{':
			s.run(k.block)
		case 'd':
			s.delete = true
		case 'p':
			s.put(s.space + "\n")
		case 'q':
			s.quit = true
		case '=':
			s.put(strconv.Itoa(s.line+1) + "\n")
		case 'n':
			if s.line+1 >= len(s.lines) {
				s.quit = true
				break
			}
			if !s.quiet {
				s.put(s.space + "\n")
			}
			s.line++
			s.space = s.lines[s.line]
		case 'a':
			s.after += k.text
		case 'i':
			s.put(k.text)
		case 'c':
			if s.delete = true; k.to == nil || !k.inside || k.not {
				s.put(k.text)
			}
		case 's':
			s.substitute(k)
		case 'y':
			s.space = strings.Map(func(r rune) rune {
				if i := strings.IndexRune(k.text, r); i >= 0 && r < 0x80 {
					return rune(k.with[i])
				}
				return r
			}, s.space)
		}
		if s.delete || s.quit {
			return
		}
	}
}

func (s *sedState) substitute(k *sedCommand) {
	var b strings.Builder
	at, found := 0, false
	for i, m := range k.re.FindAllStringSubmatchIndex(s.space, -1) {
		if i+1 < k.nth || i+1 > k.nth && !k.all {
			continue
		}
		found = true
		b.WriteString(s.space[at:m[0]])
		b.Write(k.re.ExpandString(nil, k.with, s.space, m))
		s.c.effort(len(k.with))
		s.c.bound(b.Len(), "a line of sed")
		at = m[1]
	}
	if !found {
		return
	}
	s.space = b.String() + s.space[at:]
	if k.print {
		s.put(s.space + "\n")
	}
}

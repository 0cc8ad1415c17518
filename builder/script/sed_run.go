package script

import (
	"slices"
	"strconv"
	"strings"
)

// sedState is where sed is in its input.
type sedState struct {
	c      *call
	lines  []string
	line   int // from 0
	space  string
	hold   string
	after  string // what a writes
	quiet  bool
	delete bool
	quit   bool
	ended  bool // the line at hand ends with a line end, whatever the file says
	again  bool // the commands begin anew with what is left of the line
	jump   bool // to the label
	label  string
	done   bool // an s has replaced something, for t
	out    strings.Builder
}

func (c *call) sedRun(list []*sedCommand, b []byte, quiet bool) []byte {
	s := &sedState{c: c, lines: lines(b), quiet: quiet}
	c.effort(8 * len(b) * max(1, len(list)))
	for ; s.line < len(s.lines) && !s.quit; s.line++ {
		s.space, s.after, s.ended, s.again = s.lines[s.line], "", false, true
		for s.again {
			c.step()
			s.again, s.delete, s.done = false, false, false
			s.cycle(list)
		}
		if !s.delete && !quiet {
			s.put(s.space + "\n")
		}
		s.put(s.after)
	}
	text := s.out.String()
	if len(b) > 0 && b[len(b)-1] != '\n' && s.line == len(s.lines) && s.after == "" && !s.ended {
		text = strings.TrimSuffix(text, "\n")
	}
	return []byte(text)
}

// labelled returns where a label is in a list, or -1.
func labelled(list []*sedCommand, label string) int {
	return slices.IndexFunc(list, func(k *sedCommand) bool { return k.name == ':' && k.text == label })
}

// cycle runs the commands for a line. A jump without a label goes to their end.
func (s *sedState) cycle(all []*sedCommand) {
	for list := all; ; {
		s.jump = false
		s.run(list)
		if !s.jump || s.label == "" {
			return
		}
		s.c.step()
		list = all[labelled(all, s.label):]
	}
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
		case 'N', 'P', 'D', 'h', 'H', 'g', 'G', 'x':
			s.several(k.name)
		case 'b', 't':
			if k.name == 'b' || s.done {
				s.jump, s.label, s.done = true, k.text, false
			}
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
		if s.delete || s.quit || s.jump {
			return
		}
	}
}

// several does the commands for more lines than one, and for those that are held.
func (s *sedState) several(name byte) {
	switch name {
	case 'N':
		if s.line+1 >= len(s.lines) {
			s.quit = true
			break
		}
		s.line++
		s.space += "\n" + s.lines[s.line]
		s.grown(s.space)
	case 'P':
		first, _, _ := strings.Cut(s.space, "\n")
		s.put(first + "\n")
	case 'D':
		if _, rest, several := strings.Cut(s.space, "\n"); several {
			s.space, s.again = rest, true
		}
		s.delete = true
	case 'h':
		s.hold = s.space
	case 'H':
		s.hold += "\n" + s.space
		s.grown(s.hold)
	case 'g':
		s.space = s.hold
	case 'G':
		s.space += "\n" + s.hold
		s.ended = true
		s.grown(s.space)
	case 'x':
		s.space, s.hold = s.hold, s.space
		s.ended = true
	}
}

// grown bounds what sed keeps, and counts what it takes to copy it.
func (s *sedState) grown(text string) {
	s.c.effort(len(text))
	s.c.bound(len(text), "what sed keeps")
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
	s.space, s.done = b.String()+s.space[at:], true
	if k.print {
		s.put(s.space + "\n")
	}
}

package script

import (
	"regexp"
	"strconv"
	"strings"
)

// sedAddress is a line, the last line or the lines that an expression matches.
type sedAddress struct {
	line int
	last bool
	re   *regexp.Regexp
}

// sedCommand is one command of sed's.
type sedCommand struct {
	from, to *sedAddress
	not      bool
	inside   bool // a range that has begun
	name     byte
	text     string // of a, i and c; of y what is replaced
	re       *regexp.Regexp
	with     string
	nth      int
	all      bool
	print    bool
	block    []*sedCommand
}

// sedParser reads a script of sed's.
type sedParser struct {
	c        *call
	in       string
	at       int
	extended bool
	depth    int
	jumps    []string // labels that b and t name
}

func (c *call) sed() int {
	f, names := c.flags("nie:f:rEs", "expression=e", "quiet=n", "in-place=i", "regexp-extended=r")
	if f.has('f') {
		c.refuse(Unsupported, "the option -f")
	}
	script := strings.Join(f['e'], "\n")
	if !f.has('e') {
		if len(names) == 0 {
			return c.fail("a script is missing")
		}
		script, names = names[0], names[1:]
	}
	p := &sedParser{c: c, in: script, extended: f.has('r') || f.has('E')}
	if f.has('i') {
		status := 0
		for _, name := range names {
			b, err := c.read(name)
			if err == nil {
				p.at = 0
				err = c.inPlace(name, c.sedRun(p.list(), b, f.has('n')))
			}
			if err != nil {
				status = c.fail("%s: %v", name, err)
			}
		}
		return status
	}
	all, status := c.texts(names)
	var text []byte
	for _, b := range all {
		text = append(text, b...)
	}
	c.write(c.sedRun(p.list(), text, f.has('n')))
	return status
}

// inPlace writes a file anew, as sed -i does: another file with the mode and owner
// of the old one takes its name.
func (c *call) inPlace(name string, b []byte) error {
	at, err := c.existing(name, false)
	if err != nil {
		return err
	}
	if !at.node.isFile() {
		c.refuse(Unsupported, "the option -i with a link")
	}
	return c.replace(name, b)
}

func (p *sedParser) wrong() {
	p.c.refuse(Unsupported, "the script %q of sed", p.in)
}

func (p *sedParser) peek() byte {
	if p.at < len(p.in) {
		return p.in[p.at]
	}
	return 0
}

func (p *sedParser) skip(signs string) {
	for p.at < len(p.in) && strings.IndexByte(signs, p.in[p.at]) >= 0 {
		p.at++
	}
}

// list reads commands up to the end, or to the } of a block.
func (p *sedParser) list() []*sedCommand {
	if p.depth++; p.depth > 16 {
		p.wrong()
	}
	defer func() { p.depth-- }()
	var list []*sedCommand
	for {
		p.skip(" \t\n;")
		switch {
		case p.at == len(p.in) && p.depth == 1:
			for _, label := range p.jumps {
				if labelled(list, label) < 0 {
					p.wrong()
				}
			}
			return list
		case p.peek() == '}' && p.depth > 1:
			p.at++
			return list
		case p.peek() == '#':
			for p.at < len(p.in) && p.peek() != '\n' {
				p.at++
			}
			continue
		}
		list = append(list, p.command())
	}
}

func (p *sedParser) address() *sedAddress {
	switch ch := p.peek(); {
	case ch == '$':
		p.at++
		return &sedAddress{last: true}
	case ch >= '0' && ch <= '9':
		from := p.at
		p.skip("0123456789")
		n, err := strconv.Atoi(p.in[from:p.at])
		if err != nil || n == 0 {
			p.wrong()
		}
		return &sedAddress{line: n}
	case ch == '/' || ch == '\\':
		if ch == '\\' {
			p.at++
		}
		end := p.peek()
		p.at++
		text := p.until(end, true)
		any := p.peek() == 'I'
		if any {
			p.at++
		}
		if text == "" {
			p.wrong()
		}
		return &sedAddress{re: p.c.expression(text, p.extended, any)}
	}
	return nil
}

// until reads up to a sign that no backslash is before. In an expression, a sign
// in brackets does not end it.
func (p *sedParser) until(end byte, expression bool) string {
	var b strings.Builder
	for p.at < len(p.in) {
		ch := p.in[p.at]
		switch {
		case ch == end:
			p.at++
			return b.String()
		case ch == '\\' && p.at+1 < len(p.in):
			if p.in[p.at+1] != end {
				b.WriteByte(ch)
			} else if expression && strings.IndexByte(".*[]^$+?(){}|", end) >= 0 {
				p.wrong()
			}
			b.WriteByte(p.in[p.at+1])
			p.at += 2
			continue
		case ch == '[' && expression:
			if _, n := bracket(p.in[p.at:]); n > 0 {
				b.WriteString(p.in[p.at : p.at+n])
				p.at += n
				continue
			}
		}
		b.WriteByte(ch)
		p.at++
	}
	p.wrong()
	return ""
}

func (p *sedParser) command() *sedCommand {
	s := &sedCommand{}
	if s.from = p.address(); s.from != nil {
		p.skip(" \t")
		if p.peek() == ',' {
			p.at++
			p.skip(" \t")
			if s.to = p.address(); s.to == nil {
				p.wrong()
			}
		}
	}
	p.skip(" \t")
	for p.peek() == '!' {
		s.not = true
		p.at++
		p.skip(" \t")
	}
	s.name = p.peek()
	p.at++
	switch s.name {
	case '{':
		s.block = p.list()
		return s
	case 'd', 'p', 'q', '=', 'n', 'N', 'D', 'P', 'h', 'H', 'g', 'G', 'x':
	case 'a', 'i', 'c':
		s.text = p.textLine()
		return s
	case ':', 'b', 't':
		p.label(s)
	case 's':
		p.substitution(s)
	case 'y':
		end := p.peek()
		p.at++
		s.text, s.with = p.until(end, false), p.until(end, false)
		if len(s.text) != len(s.with) || strings.Contains(s.text+s.with, `\`) {
			p.wrong()
		}
	default:
		p.wrong()
	}
	p.skip(" \t")
	if p.at < len(p.in) && strings.IndexByte(";\n}#", p.peek()) < 0 {
		p.wrong()
	}
	return s
}

// label reads the name behind :, b and t. One that is defined in a block is not known:
// who jumps would have to jump into it.
func (p *sedParser) label(s *sedCommand) {
	p.skip(" \t")
	from := p.at
	for p.at < len(p.in) && strings.IndexByte(" \t\n;}", p.peek()) < 0 {
		p.at++
	}
	s.text = p.in[from:p.at]
	if s.name == ':' && (s.text == "" || p.depth > 1 || s.from != nil || s.not) {
		p.wrong()
	}
	if s.text != "" && s.name != ':' {
		p.jumps = append(p.jumps, s.text)
	}
}

// textLine reads what a, i and c write: the rest of the line, or the lines behind a
// backslash.
func (p *sedParser) textLine() string {
	p.skip(" \t")
	if p.peek() == '\\' {
		p.at++
		p.skip(" \t")
		if p.peek() == '\n' {
			p.at++
			p.skip(" \t")
		}
	}
	var b strings.Builder
	for p.at < len(p.in) && p.peek() != '\n' {
		if p.peek() == '\\' && p.at+1 < len(p.in) {
			p.at++
		}
		b.WriteByte(p.peek())
		p.at++
	}
	return b.String() + "\n"
}

func (p *sedParser) substitution(s *sedCommand) {
	end := p.peek()
	if end == 0 || end == '\n' || end == '\\' {
		p.wrong()
	}
	p.at++
	text := p.until(end, true)
	s.with = p.replacement(end)
	s.nth = 1
	any := false
	for {
		switch ch := p.peek(); {
		case ch == 'g':
			s.all = true
		case ch == 'p':
			s.print = true
		case ch == 'i' || ch == 'I':
			any = true
		case ch >= '1' && ch <= '9':
			s.nth = int(ch - '0')
		default:
			if text == "" {
				p.wrong()
			}
			s.re = p.c.expression(text, p.extended, any)
			return
		}
		p.at++
	}
}

// replacement reads what s/// puts in. The result has Go's signs for groups.
func (p *sedParser) replacement(end byte) string {
	var b strings.Builder
	for p.at < len(p.in) {
		ch := p.in[p.at]
		p.at++
		switch {
		case ch == end:
			return b.String()
		case ch == '$':
			b.WriteString("$$")
		case ch == '&':
			b.WriteString("${0}")
		case ch == '\\' && p.at < len(p.in):
			ch = p.in[p.at]
			p.at++
			switch {
			case ch >= '0' && ch <= '9':
				b.WriteString("${" + string(ch) + "}")
			case ch == 'n':
				b.WriteByte('\n')
			case ch == 't':
				b.WriteByte('\t')
			case ch == '$':
				b.WriteString("$$")
			default:
				b.WriteByte(ch)
			}
		default:
			b.WriteByte(ch)
		}
	}
	p.wrong()
	return ""
}

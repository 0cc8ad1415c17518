package script

import (
	"regexp"
	"slices"
	"strings"
)

// expression compiles a regular expression of POSIX, basic or extended. The time that
// Go's takes to match grows with the text alone.
func (m *machine) expression(text string, extended, anyCase bool) *regexp.Regexp {
	if len(text) > maxName*4 {
		m.refuse(Limit, "a regular expression of more than %d bytes", maxName*4)
	}
	pattern := m.translate(text, extended)
	if anyCase {
		pattern = "(?i)" + pattern
	}
	re, err := regexp.Compile("(?s)" + pattern)
	if err != nil {
		m.refuse(Unsupported, "the regular expression %q", text)
	}
	re.Longest()
	return re
}

// translate writes an expression of POSIX in Go's syntax.
func (m *machine) translate(text string, extended bool) string {
	var b strings.Builder
	begins := true // of the expression, a group or an alternative
	for i := 0; i < len(text); i++ {
		ch := text[i]
		escape := false
		if ch == '\\' {
			if i++; i == len(text) {
				m.refuse(Unsupported, "the regular expression %q", text)
			}
			ch, escape = text[i], true
		}
		operator := escape != extended // whether ( ) { } | + ? mean something
		was := begins
		begins = false
		switch {
		case strings.IndexByte("(){}|+?", ch) >= 0:
			if !operator || was && strings.IndexByte("{+?", ch) >= 0 {
				b.WriteByte('\\')
				b.WriteByte(ch)
				continue
			}
			b.WriteByte(ch)
			begins = ch == '(' || ch == '|'
		case escape && ch >= '1' && ch <= '9':
			m.refuse(Unsupported, "a regular expression that refers back: %q", text)
		case escape && strings.IndexByte("wWsSbBd", ch) >= 0:
			b.WriteByte('\\')
			b.WriteByte(ch)
		case escape && (ch == '<' || ch == '>'):
			b.WriteString(`\b`)
		case escape && ch == 'n':
			b.WriteString(`\n`)
		case escape && ch == 't':
			b.WriteString(`\t`)
		case escape:
			b.WriteString(regexp.QuoteMeta(string(ch)))
		case ch == '[':
			set, n := bracket(text[i:])
			if n == 0 {
				m.refuse(Unsupported, "the regular expression %q", text)
			}
			b.WriteString(set)
			i += n - 1
		case ch == '*' && was && !extended:
			b.WriteString(`\*`)
		case ch == '^' && !extended && !was:
			b.WriteString(`\^`)
		case ch == '^':
			b.WriteByte('^')
			begins = true
		case ch == '$' && !extended && i+1 < len(text) && !strings.HasPrefix(text[i+1:], `\)`) && !strings.HasPrefix(text[i+1:], `\|`):
			b.WriteString(`\$`)
		case ch == '.' || ch == '*' || ch == '$':
			b.WriteByte(ch)
		default:
			b.WriteString(regexp.QuoteMeta(string(ch)))
		}
	}
	return b.String()
}

// bracket translates a set of characters, in which POSIX knows no backslash, and
// returns its length.
func bracket(text string) (string, int) {
	i := 1
	b := strings.Builder{}
	b.WriteByte('[')
	if i < len(text) && text[i] == '^' {
		b.WriteByte('^')
		i++
	}
	for first := true; i < len(text); first = false {
		switch {
		case text[i] == ']' && !first:
			b.WriteByte(']')
			return b.String(), i + 1
		case strings.HasPrefix(text[i:], "[:"):
			end := strings.Index(text[i:], ":]")
			if end < 0 {
				return "", 0
			}
			b.WriteString(text[i : i+end+2])
			i += end + 2
			continue
		case strings.IndexByte(`\[]^&~`, text[i]) >= 0:
			b.WriteByte('\\')
		}
		b.WriteByte(text[i])
		i++
	}
	return "", 0
}

func (c *call) grep() int {
	name := c.args[0][strings.LastIndexByte(c.args[0], '/')+1:]
	f, names := c.flags("qEFisvxwce:hHnlom:", "quiet=q", "ignore-case=i", "extended-regexp=E", "fixed-strings=F", "invert-match=v")
	patterns := f['e']
	if len(patterns) == 0 {
		if len(names) == 0 {
			return c.fail("a pattern is missing")
		}
		patterns, names = names[:1], names[1:]
	}
	extended := f.has('E') || name == "egrep"
	var all []*regexp.Regexp
	for _, p := range patterns {
		for one := range strings.SplitSeq(p, "\n") {
			if f.has('F') || name == "fgrep" {
				one, extended = regexp.QuoteMeta(one), true
			}
			re := c.expression(one, extended, f.has('i'))
			if f.has('x') || f.has('w') {
				around := [2]string{`\b(?:`, `)\b`}
				if f.has('x') {
					around = [2]string{`^(?:`, `)$`}
				}
				re = regexp.MustCompile("(?s)" + around[0] + re.String() + around[1])
			}
			all = append(all, re)
		}
	}
	if len(names) == 0 {
		names = []string{"-"}
	}
	found, trouble := false, false
	for _, name := range names {
		var text []byte
		if name == "-" {
			text = c.input().rest()
		} else {
			var err error
			if text, err = c.read(name); err != nil {
				trouble = true
				if !f.has('s') {
					c.fail("%s: %v", name, err)
				}
				continue
			}
		}
		prefix := ""
		if len(names) > 1 && !f.has('h') || f.has('H') {
			prefix = name + ":"
		}
		c.effort(8 * len(text) * len(all))
		found = c.grepText(f, all, lines(text), name, prefix) || found
		if found && f.has('q') {
			return 0
		}
	}
	switch {
	case trouble:
		return 2
	case found:
		return 0
	}
	return 1
}

// grepText looks for expressions in the lines of a file.
func (c *call) grepText(f flags, all []*regexp.Regexp, list []string, name, prefix string) bool {
	count := 0
	for i, line := range list {
		if slices.ContainsFunc(all, func(re *regexp.Regexp) bool { return re.MatchString(line) }) == f.has('v') {
			continue
		}
		count++
		switch {
		case f.has('q'):
			return true
		case f.has('l'):
			c.print("%s\n", name)
			return true
		case f.has('c'):
		case f.has('o'):
			for _, one := range all[0].FindAllString(line, -1) {
				c.print("%s%s\n", prefix, one)
			}
			if len(all) > 1 {
				c.refuse(Unsupported, "the option -o with several patterns")
			}
		default:
			if f.has('n') {
				c.print("%s%d:%s\n", prefix, i+1, line)
			} else {
				c.print("%s%s\n", prefix, line)
			}
		}
		if m := f.last('m', ""); m != "" && count >= c.natural(m) {
			break
		}
	}
	if f.has('c') {
		c.print("%s%d\n", prefix, count)
	}
	return count > 0
}

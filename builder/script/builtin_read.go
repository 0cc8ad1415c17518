package script

import (
	"strings"

	"mvdan.cc/sh/v3/syntax"
)

// readLine reads a line of the input into variables.
func (c *call) readLine() int {
	f, names := c.flags("+rsp:")
	if len(names) == 0 {
		names = []string{"REPLY"}
	}
	in := c.input()
	line, ended := in.line()
	for !f.has('r') && ended && strings.HasSuffix(line, `\`) && !strings.HasSuffix(line, `\\`) {
		c.step()
		var next string
		next, ended = in.line()
		line = line[:len(line)-1] + next
		c.bound(len(line), "a line")
	}
	c.effort(len(line))
	ifs, set := c.get("IFS")
	if !set {
		ifs = " \t\n"
	}
	for i, name := range names {
		if !syntax.ValidName(name) {
			c.complain("read: %s: bad variable name", name)
			panic(exit{2})
		}
		value := ""
		if i+1 < len(names) {
			value, line = firstField(line, ifs, f.has('r'))
		} else {
			value = lastField(line, ifs, f.has('r'))
		}
		c.assign(name, value)
	}
	if !ended {
		return 1
	}
	return 0
}

// firstField cuts the first field off a line.
func firstField(line, ifs string, raw bool) (value, rest string) {
	blank := func(b byte) bool {
		return strings.IndexByte(" \t\n", b) >= 0 && strings.IndexByte(ifs, b) >= 0
	}
	i := 0
	for i < len(line) && blank(line[i]) {
		i++
	}
	var b strings.Builder
	for i < len(line) {
		if line[i] == '\\' && !raw && i+1 < len(line) {
			b.WriteByte(line[i+1])
			i += 2
			continue
		}
		if strings.IndexByte(ifs, line[i]) >= 0 {
			break
		}
		b.WriteByte(line[i])
		i++
	}
	for i < len(line) && blank(line[i]) {
		i++
	}
	if i < len(line) && strings.IndexByte(ifs, line[i]) >= 0 && !blank(line[i]) {
		for i++; i < len(line) && blank(line[i]); i++ {
		}
	}
	return b.String(), line[i:]
}

// lastField is what is left of a line.
func lastField(line, ifs string, raw bool) string {
	blanks := ""
	for _, r := range " \t\n" {
		if strings.ContainsRune(ifs, r) {
			blanks += string(r)
		}
	}
	line = strings.Trim(line, blanks)
	// One field alone loses the sign that ends it.
	if value, rest := firstField(line, ifs, raw); rest == "" {
		return value
	}
	if raw {
		return line
	}
	return unescape(line, "\\ \t\"'$`;&|<>()*?[]#~=%!{}abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789/.,:-_+@^")
}

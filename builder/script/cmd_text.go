package script

import (
	"crypto/md5"
	"crypto/sha1"
	"crypto/sha256"
	"crypto/sha512"
	"encoding/hex"
	"slices"
	"strconv"
	"strings"
	"unicode/utf8"
)

// echo takes -n and -e as ash does: flags of other letters are text.
func (c *call) echo() int {
	args := c.args[1:]
	newline, escapes := true, false
	for len(args) > 0 && len(args[0]) > 1 && args[0][0] == '-' && strings.Trim(args[0][1:], "neE") == "" {
		for _, letter := range args[0][1:] {
			newline = newline && letter != 'n'
			escapes = (escapes || letter == 'e') && letter != 'E'
		}
		args = args[1:]
	}
	text := strings.Join(args, " ")
	if escapes {
		var stop bool
		if text, stop = escaped(text, true); stop {
			newline = false
		}
	}
	if newline {
		text += "\n"
	}
	c.write([]byte(text))
	return 0
}

// escaped replaces the escapes of echo -e and printf, and reports whether \c ended
// the text. Octal numbers begin with 0 where zero is set.
func escaped(s string, zero bool) (text string, stop bool) {
	var b strings.Builder
	for i := 0; i < len(s); i++ {
		if s[i] != '\\' || i+1 == len(s) {
			b.WriteByte(s[i])
			continue
		}
		i++
		if at := strings.IndexByte(`abefnrtv\`, s[i]); at >= 0 {
			b.WriteByte("\a\b\x1b\f\n\r\t\v\\"[at])
			continue
		}
		switch {
		case s[i] == 'c':
			return b.String(), true
		case s[i] == '0' && zero, s[i] >= '0' && s[i] <= '7':
			n, digits := 0, 3
			if s[i] == '0' && zero {
				digits++
			}
			for ; digits > 0 && i < len(s) && s[i] >= '0' && s[i] <= '7'; digits-- {
				n = n*8 + int(s[i]-'0')
				i++
			}
			i--
			b.WriteByte(byte(n))
		case s[i] == 'x' && i+1 < len(s) && isHex(s[i+1]):
			end := i + 2
			if end < len(s) && isHex(s[end]) {
				end++
			}
			n, _ := strconv.ParseUint(s[i+1:end], 16, 8)
			b.WriteByte(byte(n))
			i = end - 1
		default:
			b.WriteByte('\\')
			b.WriteByte(s[i])
		}
	}
	return b.String(), false
}

func isHex(c byte) bool { return inClass("xdigit", rune(c)) }

func (c *call) cat() int {
	_, names := c.flags("u")
	all, status := c.texts(names)
	for _, b := range all {
		c.write(b)
	}
	return status
}

// natural reads a count of lines or bytes, as -n 5 or -5.
func (c *call) natural(text string) int {
	n, err := strconv.Atoi(text)
	if err != nil || n < 0 {
		c.refuse(Unsupported, "the number %q", text)
	}
	return n
}

// countFlags is flags for head and tail, which take -5 for -n 5.
func (c *call) countFlags() (flags, []string) {
	args := slices.Clone(c.args)
	for i, arg := range args[1:] {
		if len(arg) > 1 && arg[0] == '-' && strings.Trim(arg[1:], "0123456789") == "" {
			args[i+1] = "-n" + arg[1:]
		}
	}
	return (&call{shell: c.shell, args: args}).flags("n:c:q")
}

// counted returns what head and tail are given to print a part of.
func (c *call) counted() (f flags, all [][]byte, status int) {
	f, names := c.countFlags()
	if len(names) > 1 && !f.has('q') {
		c.refuse(Unsupported, "several files")
	}
	all, status = c.texts(names)
	return f, all, status
}

func (c *call) head() int {
	f, all, status := c.counted()
	for _, b := range all {
		if f.has('c') {
			c.write(b[:min(len(b), c.natural(f.last('c', "")))])
			continue
		}
		rest := string(b)
		for n := c.natural(f.last('n', "10")); n > 0 && rest != ""; n-- {
			end := strings.IndexByte(rest, '\n') + 1
			if end == 0 {
				end = len(rest)
			}
			c.write([]byte(rest[:end]))
			rest = rest[end:]
		}
	}
	return status
}

func (c *call) tail() int {
	f, all, status := c.counted()
	for _, b := range all {
		if f.has('c') {
			c.write(b[max(0, len(b)-c.natural(f.last('c', ""))):])
			continue
		}
		count := f.last('n', "10")
		list := strings.SplitAfter(string(b), "\n")
		if list[len(list)-1] == "" {
			list = list[:len(list)-1]
		}
		from := 0
		if first, is := strings.CutPrefix(count, "+"); is {
			from = min(len(list), max(0, c.natural(first)-1))
		} else {
			from = max(0, len(list)-c.natural(count))
		}
		c.write([]byte(strings.Join(list[from:], "")))
	}
	return status
}

func (c *call) wc() int {
	f, names := c.flags("lwcm")
	all, status := c.texts(names)
	if len(names) > 1 {
		c.refuse(Unsupported, "several files")
	}
	for _, b := range all {
		var counts []string
		add := func(letter byte, n int) {
			if f.has(letter) || len(f) == 0 && letter != 'm' {
				counts = append(counts, strconv.Itoa(n))
			}
		}
		add('l', strings.Count(string(b), "\n"))
		add('w', len(strings.Fields(string(b))))
		add('m', utf8.RuneCount(b))
		add('c', len(b))
		text := counts[0]
		if len(counts) > 1 || len(names) > 0 {
			text = ""
			for i, n := range counts {
				if len(counts) > 1 {
					n = padded("9", n)
				}
				if i > 0 {
					text += " "
				}
				text += n
			}
		}
		if len(names) > 0 {
			text += " " + names[0]
		}
		c.print("%s\n", text)
	}
	return status
}

func (c *call) cut() int {
	f, names := c.flags("d:f:c:b:s")
	spec, fields := f.last('f', ""), true
	if spec == "" {
		spec, fields = f.last('c', f.last('b', "")), false
	}
	wanted := func(n int) bool {
		for part := range strings.SplitSeq(spec, ",") {
			low, high, ranged := strings.Cut(part, "-")
			from, to := 1, 1<<30
			if low != "" {
				from = c.natural(low)
			}
			if !ranged {
				to = from
			} else if high != "" {
				to = c.natural(high)
			}
			if from <= n && n <= to {
				return true
			}
		}
		return false
	}
	delimiter := f.last('d', "\t")
	if spec == "" || len(delimiter) != 1 {
		c.refuse(Unsupported, "no list, or a separator of several bytes")
	}
	all, status := c.texts(names)
	for _, b := range all {
		for _, line := range lines(b) {
			c.effort(16 * len(line))
			separator := delimiter
			parts := strings.Split(line, delimiter)
			switch {
			case !fields:
				parts, separator = strings.Split(line, ""), ""
			case len(parts) == 1:
				if !f.has('s') {
					c.print("%s\n", line)
				}
				continue
			}
			var kept []string
			for i, part := range parts {
				if wanted(i + 1) {
					kept = append(kept, part)
				}
			}
			c.print("%s\n", strings.Join(kept, separator))
		}
	}
	return status
}

func (c *call) tee() int {
	f, names := c.flags("a")
	b := c.input().rest()
	for _, name := range names {
		old := []byte(nil)
		if f.has('a') {
			old, _ = c.read(name)
		}
		if err := c.replace(name, append(slices.Clone(old), b...)); err != nil {
			return c.fail("%s: %v", name, err)
		}
	}
	c.write(b)
	return 0
}

func (c *call) seq() int {
	args := c.args[1:]
	if len(args) == 0 || len(args) > 2 || strings.HasPrefix(args[0], "-") {
		c.refuse(Unsupported, "seq with other than one or two numbers")
	}
	from := 1
	if len(args) == 2 {
		from = c.natural(args[0])
	}
	for i, to := from, c.natural(args[len(args)-1]); i <= to; i++ {
		c.print("%d\n", i)
	}
	return 0
}

func (c *call) checksum() int {
	_, names := c.flags("")
	if len(names) == 0 {
		names = []string{"-"}
	}
	status := 0
	for _, name := range names {
		all, failed := c.texts([]string{name})
		if status = max(status, failed); failed != 0 {
			continue
		}
		var sum []byte
		switch b := all[0]; strings.TrimSuffix(c.args[0][strings.LastIndexByte(c.args[0], '/')+1:], "sum") {
		case "md5":
			s := md5.Sum(b)
			sum = s[:]
		case "sha1":
			s := sha1.Sum(b)
			sum = s[:]
		case "sha256":
			s := sha256.Sum256(b)
			sum = s[:]
		default:
			s := sha512.Sum512(b)
			sum = s[:]
		}
		c.print("%s  %s\n", hex.EncodeToString(sum), name)
	}
	return status
}

// tr replaces or deletes characters.
func (c *call) tr() int {
	f, sets := c.flags("+dsc", "delete=d")
	if f.has('c') || f.has('s') && (f.has('d') || len(sets) != 1) || len(sets) != 2-min(1, len(f)) {
		c.refuse(Unsupported, "tr with these options")
	}
	from := c.characters(sets[0])
	all, _ := c.texts(nil)
	var out []byte
	for _, b := range all[0] {
		at := slices.Index(from, b)
		switch {
		case at < 0:
			out = append(out, b)
		case f.has('d'):
		case f.has('s'):
			if len(out) == 0 || out[len(out)-1] != b {
				out = append(out, b)
			}
		default:
			to := c.characters(sets[1])
			if len(to) == 0 {
				c.refuse(Unsupported, "an empty list of characters")
			}
			out = append(out, to[min(at, len(to)-1)])
		}
	}
	c.effort(16 * len(all[0]))
	c.write(out)
	return 0
}

// characters returns the bytes of a list of tr, such as a-z or [:upper:].
func (c *call) characters(set string) []byte {
	text, _ := escaped(set, false)
	var list []byte
	for i := 0; i < len(text); i++ {
		if rest, is := strings.CutPrefix(text[i:], "[:"); is {
			name, _, closed := strings.Cut(rest, ":]")
			if !closed {
				c.refuse(Unsupported, "the list %q", set)
			}
			for r := range rune(128) {
				if inClass(name, r) {
					list = append(list, byte(r))
				}
			}
			i += len(name) + 3
			continue
		}
		if i+2 < len(text) && text[i+1] == '-' {
			for b := int(text[i]); b <= int(text[i+2]); b++ {
				list = append(list, byte(b))
			}
			i += 2
			continue
		}
		list = append(list, text[i])
	}
	return list
}

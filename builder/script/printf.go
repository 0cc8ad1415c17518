package script

import (
	"strconv"
	"strings"
)

// printf repeats its format until no argument is left.
func (c *call) printf() int {
	args := c.args[1:]
	if len(args) > 0 && args[0] == "--" {
		args = args[1:]
	}
	if len(args) == 0 {
		return c.fail("a format is missing")
	}
	format, args := args[0], args[1:]
	var b strings.Builder
	status := 0
	for {
		c.step()
		left := len(args)
		stop := c.format(&b, format, &args, &status)
		c.bound(b.Len(), "the output of a command")
		if stop || len(args) == 0 || len(args) == left {
			break
		}
	}
	c.write([]byte(b.String()))
	return status
}

// format writes a format once, and reports whether \c ended the output.
func (c *call) format(b *strings.Builder, format string, args *[]string, status *int) bool {
	next := func() string {
		if len(*args) == 0 {
			return ""
		}
		arg := (*args)[0]
		*args = (*args)[1:]
		return arg
	}
	for {
		at := strings.IndexByte(format, '%')
		if at < 0 {
			at = len(format)
		}
		text, stop := escaped(format[:at], false)
		b.WriteString(text)
		if stop || at == len(format) {
			return stop
		}
		format = format[at+1:]
		n := 0
		for n < len(format) && strings.IndexByte("-+ #0123456789.*", format[n]) >= 0 {
			n++
		}
		if n == len(format) {
			*status = c.fail("%%%s: invalid format", format)
			return true
		}
		spec, verb := format[:n], format[n]
		format = format[n+1:]
		if strings.Contains(spec, "*") {
			c.refuse(Unsupported, "a width that is an argument")
		}
		for _, number := range strings.FieldsFunc(spec, func(r rune) bool { return r < '0' || r > '9' }) {
			if w, err := strconv.Atoi(number); err != nil || w > maxText {
				c.refuse(Limit, "a width of %s", number)
			}
		}
		if verb == '%' && spec == "" {
			b.WriteByte('%')
			continue
		}
		if c.verb(b, spec, verb, next, status) {
			return true
		}
		c.bound(b.Len(), "the output of a command")
	}
}

func (c *call) verb(b *strings.Builder, spec string, verb byte, next func() string, status *int) (stop bool) {
	switch verb {
	case 's', 'b', 'c':
		arg := next()
		if verb == 'b' {
			arg, stop = escaped(arg, true)
		}
		if verb == 'c' {
			arg = arg[:min(1, len(arg))]
		}
		b.WriteString(padded(spec, arg))
		return stop
	case 'd', 'i', 'u', 'x', 'X', 'o':
		arg := strings.TrimSpace(next())
		n, err := strconv.ParseInt(arg, 0, 64)
		if arg != "" && err != nil {
			if len(arg) == 2 && (arg[0] == '\'' || arg[0] == '"') {
				n = int64(arg[1])
			} else {
				*status = c.fail("invalid number '%s'", arg)
			}
		}
		if strings.ContainsAny(spec, "+ #.") {
			c.refuse(Unsupported, "the format %%%s%c", spec, verb)
		}
		base := map[byte]int{'d': 10, 'i': 10, 'u': 10, 'x': 16, 'X': 16, 'o': 8}[verb]
		text := strconv.FormatInt(n, base)
		if base != 10 || verb == 'u' {
			text = strconv.FormatUint(uint64(n), base)
		}
		if verb == 'X' {
			text = strings.ToUpper(text)
		}
		if width, is := strings.CutPrefix(spec, "0"); is {
			w, _ := strconv.Atoi(width)
			sign := ""
			if strings.HasPrefix(text, "-") {
				sign, text = "-", text[1:]
			}
			text = sign + strings.Repeat("0", max(0, w-len(sign)-len(text))) + text
			spec = ""
		}
		b.WriteString(padded(spec, text))
		return false
	}
	c.refuse(Unsupported, "the format %%%s%c", spec, verb)
	return true
}

// padded is a text as %s with a width, a precision and perhaps a minus prints it.
func padded(spec, text string) string {
	left := strings.Contains(spec, "-")
	width, precision, cut := strings.Cut(strings.Trim(spec, "-+ #"), ".")
	if cut {
		n, _ := strconv.Atoi(precision)
		text = text[:min(n, len(text))]
	}
	n, _ := strconv.Atoi(width)
	fill := strings.Repeat(" ", max(0, n-len(text)))
	if left {
		return text + fill
	}
	return fill + text
}

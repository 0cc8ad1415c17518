package script

import (
	"slices"
	"strconv"
	"strings"

	"mvdan.cc/sh/v3/syntax"
)

func (c *call) basename() int {
	args := c.args[1:]
	if len(args) == 0 || len(args) > 2 || strings.HasPrefix(args[0], "-") && len(args[0]) > 1 {
		c.refuse(Unsupported, "basename with these arguments")
	}
	name := strings.TrimRight(args[0], "/")
	if name == "" && args[0] != "" {
		name = "/"
	} else {
		name = name[strings.LastIndexByte(name, '/')+1:]
	}
	if len(args) == 2 && name != args[1] {
		name = strings.TrimSuffix(name, args[1])
	}
	c.print("%s\n", name)
	return 0
}

func (c *call) dirname() int {
	_, args := c.flags("")
	if len(args) != 1 {
		return c.fail("one operand is needed")
	}
	name := strings.TrimRight(args[0], "/")
	switch i := strings.LastIndexByte(name, '/'); {
	case name == "" && args[0] != "":
		name = "/"
	case i < 0:
		name = "."
	default:
		if name = strings.TrimRight(name[:i], "/"); name == "" {
			name = "/"
		}
	}
	c.print("%s\n", name)
	return 0
}

func (c *call) pwd() int {
	if f, _ := c.flags("LP"); f.has('P') {
		c.print("%s\n", where(c.dir))
		return 0
	}
	c.print("%s\n", c.here)
	return 0
}

// env runs a command with other variables.
func (c *call) env() int {
	args := c.args[1:]
	old := map[string]variable{}
	defer func() { c.restore(old) }()
	for len(args) > 0 {
		name, value, given := strings.Cut(args[0], "=")
		if !given {
			break
		}
		if !syntax.ValidName(name) {
			c.refuse(Unsupported, "the variable %q", name)
		}
		c.lend(old, name, value)
		args = args[1:]
	}
	if len(args) == 0 || strings.HasPrefix(args[0], "-") {
		c.refuse(Unsupported, "env with these arguments")
	}
	c.shell.command = args[0]
	return c.callOf(args).utility()
}

// xargs runs a command with the words of its input.
func (c *call) xargs() int {
	f, args := c.flags("+0rn:")
	if len(args) == 0 {
		args = []string{"echo"}
	}
	text := string(c.input().rest())
	var words []string
	if f.has('0') {
		words = strings.FieldsFunc(text, func(r rune) bool { return r == 0 })
	} else {
		if strings.ContainsAny(text, `'"\`) {
			c.refuse(Unsupported, "words in quotes")
		}
		words = strings.Fields(text)
	}
	if len(words) == 0 && f.has('r') {
		return 0
	}
	c.effort(16 * len(words))
	size := max(1, len(words))
	if n := f.last('n', ""); n != "" {
		size = max(1, c.natural(n))
	}
	status := 0
	for first := true; first || len(words) > 0; first = false {
		n := min(size, len(words))
		c.shell.command = args[0]
		if c.callOf(append(slices.Clone(args), words[:n]...)).utility() != 0 {
			status = 123
		}
		words = words[n:]
	}
	return status
}

// sh runs a script of the tree, or one that is an argument.
func (c *call) sh() int {
	args := c.args[1:]
	var options []string
	given := false
	for len(args) > 0 && len(args[0]) > 1 && args[0][0] == '-' {
		option := args[0]
		args = args[1:]
		if option == "--" {
			break
		}
		if letters := strings.ReplaceAll(option[1:], "c", ""); letters != option[1:] {
			given = true
			if option = "-" + letters; letters == "" {
				continue
			}
		}
		options = append(options, option)
	}
	if len(args) == 0 {
		if given {
			return c.fail("-c needs a script")
		}
		return c.script(c.input().rest(), []string{"sh"}, options)
	}
	if given {
		rest := args[1:]
		if len(rest) == 0 {
			rest = []string{"sh"}
		}
		return c.script([]byte(args[0]), rest, options)
	}
	b, err := c.read(args[0])
	if err != nil {
		c.fail("can't open '%s': %v", args[0], err)
		return 2
	}
	return c.script(b, args, options)
}

// busybox runs one of its commands, or makes the links for them that are in the
// lists of etc/busybox-paths.d.
func (c *call) busybox() int {
	args := c.args[1:]
	switch {
	case len(args) > 0 && isApplet(args[0]):
		c.shell.command = args[0]
		return c.callOf(args).utility()
	case len(args) == 2 && args[0] == "--install" && args[1] == "-s":
		return c.installLinks()
	}
	c.refuse(Unsupported, "busybox with these arguments")
	return 1
}

// InstallLinks is the name in Options.Elsewhere for the links that busybox makes to
// itself. A tree that has their lists gets them all the same.
const InstallLinks = "busybox --install"

func (c *call) installLinks() int {
	const lists = "etc/busybox-paths.d"
	if n := c.view.get(lists); n == nil || !n.isDir() {
		if c.options.Elsewhere[InstallLinks] {
			c.elsewhere[InstallLinks] = true
			return 0
		}
		c.refuse(Unsupported, "the tree has no /%s", lists)
	}
	for _, list := range c.view.children(lists) {
		b, err := c.read(where(join(lists, list)))
		if err != nil {
			return c.fail("%s: %v", list, err)
		}
		for p := range strings.FieldsSeq(string(b)) {
			at, err := c.view.resolve("", "/"+p, false)
			if err != nil || at.node != nil || at.null {
				continue
			}
			if err := c.view.symlink(at.name, "/bin/busybox"); err != nil {
				return c.fail("%s: %v", p, err)
			}
		}
	}
	return 0
}

// rcUpdate adds services to runlevels and takes them out, which are links.
func (c *call) rcUpdate() int {
	if _, found := c.search(c.args[0]); !found {
		c.complain("%s: not found", c.args[0])
		return 127
	}
	_, args := c.flags("q", "quiet=q")
	if len(args) < 3 || args[0] != "add" && args[0] != "del" && args[0] != "delete" {
		c.refuse(Unsupported, "rc-update without a service and a runlevel")
	}
	status := 0
	for _, level := range args[2:] {
		service := args[1]
		if strings.Contains(service+level, "/") {
			return c.fail("%s: invalid name", service)
		}
		link := "/etc/runlevels/" + level + "/" + service
		script, err := c.view.resolve("", "/etc/init.d/"+service, true)
		switch at, failed := c.view.resolve("", link, false); {
		case failed != nil:
			status = c.fail("%s is not a valid runlevel", level)
		case args[0] != "add":
			if at.node == nil {
				status = c.fail("service %s is not in the runlevel %s", service, level)
				continue
			}
			c.view.removeAll(at.name)
		case err != nil || script.node == nil:
			status = c.fail("service %s does not exist", service)
		case at.node == nil:
			if err := c.view.symlink(at.name, "/etc/init.d/"+service); err != nil {
				status = c.fail("%v", err)
			}
		}
	}
	return status
}

// expression of expr: its arguments, and how many of them are read.
type arguments struct {
	*call
	args []string
	at   int
}

// expr prints what an expression of arguments is.
func (c *call) expr() (status int) {
	defer func() {
		switch r := recover().(type) {
		case nil:
		case exprError:
			status = 2
		default:
			panic(r)
		}
	}()
	e := &arguments{call: c, args: c.args[1:]}
	value := e.either()
	if e.at != len(e.args) {
		e.wrong()
	}
	c.print("%s\n", value)
	return btoi(value == "" || value == "0")
}

func (e *arguments) wrong() {
	e.fail("syntax error")
	panic(exprError{})
}

// exprError ends expr with status 2.
type exprError struct{}

func (e *arguments) next(words ...string) string {
	if e.at < len(e.args) && slices.Contains(words, e.args[e.at]) {
		e.at++
		return e.args[e.at-1]
	}
	return ""
}

func null(s string) bool { return s == "" || s == "0" }

func (e *arguments) either() string {
	left := e.both()
	for e.next("|") != "" {
		if right := e.both(); null(left) {
			left = right
		}
	}
	return left
}

func (e *arguments) both() string {
	left := e.compare()
	for e.next("&") != "" {
		if right := e.compare(); null(left) || null(right) {
			left = "0"
		}
	}
	return left
}

func (e *arguments) compare() string {
	left := e.sum()
	for {
		op := e.next("<", "<=", "=", "==", "!=", ">=", ">")
		if op == "" {
			return left
		}
		right := e.sum()
		d := strings.Compare(left, right)
		x, err := strconv.ParseInt(left, 10, 64)
		y, other := strconv.ParseInt(right, 10, 64)
		if err == nil && other == nil {
			d = btoi(x > y) - btoi(x < y)
		}
		is := map[string]bool{"<": d < 0, "<=": d <= 0, "=": d == 0, "==": d == 0, "!=": d != 0, ">=": d >= 0, ">": d > 0}[op]
		left = strconv.Itoa(btoi(is))
	}
}

func (e *arguments) integer(s string) int64 {
	n, err := strconv.ParseInt(s, 10, 64)
	if err != nil {
		e.fail("non-integer argument")
		panic(exprError{})
	}
	return n
}

func (e *arguments) sum() string {
	left := e.product()
	for {
		op := e.next("+", "-")
		if op == "" {
			return left
		}
		right := e.integer(e.product())
		if op == "-" {
			right = -right
		}
		left = strconv.FormatInt(e.integer(left)+right, 10)
	}
}

func (e *arguments) product() string {
	left := e.matching()
	for {
		op := e.next("*", "/", "%")
		if op == "" {
			return left
		}
		x, y := e.integer(left), e.integer(e.matching())
		switch {
		case op == "*":
			x *= y
		case y == 0:
			e.fail("division by zero")
			panic(exprError{})
		case y == -1: // the lowest number has no counterpart
			x *= -int64(btoi(op == "/"))
		case op == "/":
			x /= y
		default:
			x %= y
		}
		left = strconv.FormatInt(x, 10)
	}
}

func (e *arguments) matching() string {
	left := e.operand()
	for e.next(":") != "" {
		left = e.matches(left, e.operand())
	}
	return left
}

// matches compares the beginning of a text with a basic expression.
func (e *arguments) matches(text, pattern string) string {
	re := e.expression("^"+strings.TrimPrefix(pattern, "^"), false, false)
	e.effort(8 * len(text))
	m := re.FindStringSubmatch(text)
	switch {
	case re.NumSubexp() > 0 && m != nil:
		return m[1]
	case re.NumSubexp() > 0:
		return ""
	case m == nil:
		return "0"
	}
	return strconv.Itoa(len([]rune(m[0])))
}

func (e *arguments) operand() string {
	defer e.nest()()
	if e.at >= len(e.args) {
		e.wrong()
	}
	if e.next("(") != "" {
		value := e.either()
		if e.next(")") == "" {
			e.wrong()
		}
		return value
	}
	word := e.args[e.at]
	if slices.Contains([]string{"match", "substr", "index", "length", "quote"}, word) && e.at+1 < len(e.args) {
		e.refuse(Unsupported, "expr %s", word)
	}
	e.at++
	return word
}

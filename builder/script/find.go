package script

import (
	"strconv"
	"strings"
)

// test is a condition or an action of find's.
type findTest func(path string, at place) bool

// finder reads find's expression.
type finder struct {
	*call
	args     []string
	at       int
	minimum  int
	maximum  int
	acts     bool // it has an action of its own
	prune    bool // what is below the file is left out
	depth    bool
	commands [][]string // of -exec with +
	collect  [][]string // their files
}

func (c *call) findFiles() int {
	args := c.args[1:]
	n := 0
	for n < len(args) && !strings.HasPrefix(args[n], "-") && args[n] != "!" && args[n] != "(" {
		n++
	}
	roots := args[:n]
	if n == 0 {
		roots = []string{"."}
	}
	f := &finder{call: c, args: args[n:], maximum: maxPath}
	test := findTest(func(string, place) bool { return true })
	if len(f.args) > 0 {
		test = f.or()
	}
	if f.at < len(f.args) {
		c.refuse(Unsupported, "find's %s", f.args[f.at])
	}
	status := 0
	for _, root := range roots {
		at, err := c.existing(root, false)
		if err != nil {
			status = c.fail("%s: %v", root, err)
			continue
		}
		f.visit(root, at, 0, test)
	}
	for i, command := range f.commands {
		if len(f.collect[i]) > 0 && c.run(append(command, f.collect[i]...)) != 0 {
			status = 1
		}
	}
	return status
}

func (f *finder) visit(path string, at place, level int, test findTest) {
	defer f.nest()()
	f.step()
	f.prune = false
	here := func() {
		if level >= f.minimum && test(path, at) && !f.acts {
			f.print("%s\n", path)
		}
	}
	if !f.depth {
		here()
	}
	if at.node.isDir() && level < f.maximum && !f.prune {
		for _, name := range f.view.children(at.name) {
			if n := f.view.get(join(at.name, name)); n != nil {
				f.visit(strings.TrimSuffix(path, "/")+"/"+name, place{name: join(at.name, name), node: n}, level+1, test)
			}
		}
	}
	if f.depth {
		here()
	}
}

func (f *finder) next(words ...string) bool {
	for _, word := range words {
		if f.at < len(f.args) && f.args[f.at] == word {
			f.at++
			return true
		}
	}
	return false
}

func (f *finder) value() string {
	if f.at++; f.at > len(f.args) {
		f.refuse(Unsupported, "find's %s without a value", f.args[f.at-2])
	}
	return f.args[f.at-1]
}

func (f *finder) or() findTest {
	left := f.and()
	for f.next("-o", "-or") {
		a, b := left, f.and()
		left = func(p string, at place) bool { return a(p, at) || b(p, at) }
	}
	return left
}

func (f *finder) and() findTest {
	left := f.not()
	for f.next("-a", "-and") || f.at < len(f.args) && f.args[f.at] != "-o" && f.args[f.at] != "-or" && f.args[f.at] != ")" {
		a, b := left, f.not()
		left = func(p string, at place) bool { return a(p, at) && b(p, at) }
	}
	return left
}

func (f *finder) not() findTest {
	defer f.nest()()
	if f.next("!", "-not") {
		test := f.not()
		return func(p string, at place) bool { return !test(p, at) }
	}
	return f.primary()
}

func (f *finder) primary() findTest {
	if f.at >= len(f.args) {
		f.refuse(Unsupported, "find with these arguments")
	}
	always := func(string, place) bool { return true }
	word := f.args[f.at]
	f.at++
	switch word {
	case "(":
		test := f.or()
		if !f.next(")") {
			f.refuse(Unsupported, "find with these arguments")
		}
		return test
	case "-name", "-path":
		pattern := f.value()
		return func(p string, at place) bool {
			if word == "-name" {
				p = strings.TrimRight(p, "/")
				p = p[strings.LastIndexByte(p, '/')+1:]
			}
			return f.match(pattern, p)
		}
	case "-type":
		kind := f.value()
		if len(kind) != 1 || strings.IndexByte("fdl", kind[0]) < 0 {
			f.refuse(Unsupported, "find's -type %s", kind)
		}
		return func(_ string, at place) bool {
			return kind == "f" && at.node.isFile() || kind == "d" && at.node.isDir() || kind == "l" && at.node.isLink()
		}
	case "-maxdepth":
		f.maximum = f.natural(f.value())
		return always
	case "-mindepth":
		f.minimum = f.natural(f.value())
		return always
	case "-xdev", "-mount":
		return always
	case "-depth":
		f.depth = true
		return always
	case "-prune":
		return func(string, place) bool {
			f.prune = true
			return true
		}
	case "-user", "-group":
		id, status := f.account(f.value(), word[1:])
		if status != 0 {
			panic(exit{status})
		}
		return func(_ string, at place) bool {
			return word == "-user" && at.node.Uid == id || word == "-group" && at.node.Gid == id
		}
	case "-perm":
		return f.permission(f.value())
	}
	return f.action(word)
}

func (f *finder) permission(text string) findTest {
	digits := strings.TrimLeft(text, "-/+")
	n, err := strconv.ParseInt(digits, 8, 32)
	if err != nil || len(text)-len(digits) > 1 {
		f.refuse(Unsupported, "find's -perm %s", text)
	}
	return func(_ string, at place) bool {
		switch text[0] {
		case '-':
			return at.node.Mode&n == n
		case '/', '+':
			return at.node.Mode&n != 0 || n == 0
		}
		return at.node.Mode == n
	}
}

// action returns what find does with a file.
func (f *finder) action(word string) findTest {
	f.acts = true
	switch word {
	case "-print", "-print0":
		return func(p string, _ place) bool {
			if word == "-print0" {
				f.print("%s\x00", p)
			} else {
				f.print("%s\n", p)
			}
			return true
		}
	case "-delete":
		f.depth = true
		return func(_ string, at place) bool { return at.name != "" && f.view.remove(at.name) == nil }
	case "-exec":
		var command []string
		for !f.next(";") {
			if f.next("+") {
				return f.together(command)
			}
			command = append(command, f.value())
		}
		return func(p string, _ place) bool {
			args := make([]string, len(command))
			for i, arg := range command {
				args[i] = strings.ReplaceAll(arg, "{}", p)
			}
			return len(args) > 0 && f.callOf(args).utility() == 0
		}
	}
	f.refuse(Unsupported, "find's %s", word)
	return nil
}

// together collects files for one command.
func (f *finder) together(command []string) findTest {
	if n := len(command); n < 2 || command[n-1] != "{}" {
		f.refuse(Unsupported, "find's -exec without {} before +")
	}
	i := len(f.commands)
	f.commands, f.collect = append(f.commands, command[:len(command)-1]), append(f.collect, nil)
	return func(p string, _ place) bool {
		f.collect[i] = append(f.collect[i], p)
		return true
	}
}

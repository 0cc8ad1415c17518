package script

import (
	"path"
	"slices"
	"strconv"
	"strings"

	"mvdan.cc/sh/v3/syntax"
)

// builtin returns a command that changes the shell itself, or nil.
func builtin(name string) command {
	switch name {
	case ":", "true":
		return func(*call) int { return 0 }
	case "false":
		return func(*call) int { return 1 }
	case "exit":
		return (*call).exit
	case "return":
		return (*call).goBack
	case "break", "continue":
		return (*call).leaveLoops
	case "shift":
		return (*call).shift
	case "set":
		return func(c *call) int { return c.set(c.args[1:]) }
	case "unset":
		return (*call).unsetAll
	case "export", "readonly":
		return (*call).export
	case "local":
		return (*call).local
	case "eval":
		return (*call).eval
	case ".", "source":
		return (*call).dot
	case "exec":
		return (*call).exec
	case "cd", "chdir":
		return (*call).cd
	case "read":
		return (*call).readLine
	case "trap":
		return (*call).setTrap
	case "umask":
		return (*call).setUmask
	case "command":
		return (*call).runCommand
	case "type", "which":
		return (*call).describe
	case "wait":
		return func(*call) int { return 0 }
	case "getopts", "alias", "unalias", "ulimit", "times", "jobs", "fg", "bg", "kill", "hash", "let", "builtin":
		return func(c *call) int {
			c.refuse(Unsupported, "a command of the shell that this package does not know")
			return 1
		}
	}
	return nil
}

// count reads the number that exit and its like take.
func (c *call) count(otherwise int) int {
	if len(c.args) < 2 {
		return otherwise
	}
	n, err := strconv.Atoi(c.args[1])
	if err != nil || n < 0 {
		c.complain("%s: Illegal number: %s", c.args[0], c.args[1])
		panic(exit{2})
	}
	return n
}

func (c *call) exit() int { panic(exit{c.count(c.status)}) }

func (c *call) goBack() int {
	status := c.count(c.status) & 0xff
	if c.calls == 0 {
		panic(exit{status})
	}
	c.leave = returning
	return status
}

func (c *call) leaveLoops() int {
	n := c.count(1)
	if c.loops == 0 {
		return 0
	}
	c.levels = min(max(n, 1), c.loops)
	c.leave = breaking
	if c.args[0] == "continue" {
		c.leave = continuing
	}
	return 0
}

func (c *call) shift() int {
	n := c.count(1)
	if n > len(c.params) {
		return 1
	}
	c.params = c.params[n:]
	return 0
}

// set does what the command set does; it takes -e, -u, -f, -a, -x, -v and their
// names.
func (sh *shell) set(args []string) int {
	names := map[string]byte{"errexit": 'e', "nounset": 'u', "noglob": 'f', "allexport": 'a', "xtrace": 'x', "verbose": 'v', "pipefail": 0}
	for i := 0; i < len(args); i++ {
		arg := args[i]
		if arg == "--" {
			sh.params = args[i+1:]
			return 0
		}
		if len(arg) < 2 || arg[0] != '-' && arg[0] != '+' {
			sh.params = args[i:]
			return 0
		}
		for _, letter := range []byte(arg[1:]) {
			if letter == 'o' {
				if i++; i >= len(args) || names[args[i]] == 0 {
					sh.refuse(Unsupported, "set -o with what this package does not know")
				}
				letter = names[args[i]]
			}
			if strings.IndexByte("eufaxvh", letter) < 0 {
				sh.refuse(Unsupported, "set -%c", letter)
			}
			if letter == 'x' || letter == 'v' { // what it writes is of no use here
				continue
			}
			if arg[0] == '-' {
				sh.modes[letter] = true
			} else {
				delete(sh.modes, letter)
			}
		}
	}
	if len(args) == 0 {
		sh.refuse(Unsupported, "set without arguments")
	}
	return 0
}

func (c *call) unsetAll() int {
	f, names := c.shell.callOf(c.args).flags("+fv")
	for _, name := range names {
		if f.has('f') {
			delete(c.functions, name)
			continue
		}
		if c.vars[name].fixed {
			c.complain("%s: is read only", name)
			panic(exit{2})
		}
		delete(c.vars, name)
	}
	return 0
}

func (sh *shell) callOf(args []string) *call { return &call{shell: sh, args: args} }

func (c *call) export() int {
	f, args := c.callOf(c.args).flags("+pn")
	if f.has('p') || len(args) == 0 {
		c.refuse(Unsupported, "a list of variables")
	}
	for _, arg := range args {
		name, value, given := strings.Cut(arg, "=")
		if !syntax.ValidName(name) {
			c.complain("%s: %s: bad variable name", c.args[0], name)
			panic(exit{2})
		}
		if given {
			c.assign(name, value)
		}
		v := c.vars[name]
		if c.args[0] == "export" {
			v.exported = !f.has('n')
		} else {
			v.fixed = true
		}
		c.vars[name] = v
	}
	return 0
}

func (c *call) local() int {
	if len(c.locals) == 0 {
		c.complain("local: not in a function")
		panic(exit{2})
	}
	for _, arg := range c.args[1:] {
		name, value, given := strings.Cut(arg, "=")
		if !syntax.ValidName(name) {
			c.complain("local: %s: bad variable name", name)
			panic(exit{2})
		}
		c.hide(name)
		if given {
			c.assign(name, value)
			continue
		}
		v := c.vars[name]
		v.value, v.set = "", false
		c.vars[name] = v
	}
	return 0
}

func (c *call) eval() int {
	c.status = 0
	c.source([]byte(strings.Join(c.args[1:], " ")))
	return c.status
}

// dot runs a script of the tree in this shell.
func (c *call) dot() int {
	if len(c.args) < 2 {
		c.complain(".: a file name is missing")
		panic(exit{2})
	}
	name := c.args[1]
	if !strings.Contains(name, "/") {
		list, _ := c.get("PATH")
		for _, dir := range strings.Split(list, ":") {
			if at, err := c.view.resolve(c.dir, dir+"/"+name, true); err == nil && at.node != nil && at.node.isFile() {
				name = where(at.name)
				break
			}
		}
	}
	b, err := c.read(name)
	if err != nil {
		c.complain(".: can't open '%s': %v", c.args[1], err)
		panic(exit{2})
	}
	if c.scripts++; c.scripts > maxScripts {
		c.refuse(Limit, "more than %d scripts that call each other", maxScripts)
	}
	params, loops := c.params, c.loops
	if len(c.args) > 2 {
		c.params = c.args[2:]
	}
	c.status, c.loops = 0, 0
	c.calls++
	c.source(b)
	c.calls--
	c.scripts--
	c.params, c.loops = params, loops
	if c.leave == returning {
		c.leave = staying
	}
	return c.status
}

// exec runs a command in place of the shell.
func (c *call) exec() int {
	if strings.HasPrefix(c.args[1], "-") && c.args[1] != "--" {
		c.refuse(Unsupported, "the option %s", c.args[1])
	}
	args := c.args[1:]
	if args[0] == "--" {
		args = args[1:]
	}
	c.shell.command = args[0]
	c.trap = ""
	panic(exit{c.callOf(args).external2()})
}

// external2 is external for commands that the shell has too.
func (c *call) external2() int {
	defer c.nest()()
	c.step()
	if slices.Contains([]string{"true", "false", "which"}, c.args[0]) {
		return builtin(c.args[0])(c)
	}
	return c.external()
}

func (c *call) cd() int {
	f, dirs := c.flags("+LP")
	to := ""
	switch {
	case len(dirs) > 1:
		c.refuse(Unsupported, "several directories")
	case len(dirs) == 1:
		to = dirs[0]
	default:
		to, _ = c.get("HOME")
	}
	old := c.here
	if to == "-" {
		if to, _ = c.get("OLDPWD"); to == "" {
			return c.fail("OLDPWD not set")
		}
		c.print("%s\n", to)
	}
	if to == "" {
		return 0
	}
	// A .. takes back the last part of the path by which the shell came here.
	here := path.Clean("/" + to)
	if !strings.HasPrefix(to, "/") {
		here = path.Clean(c.here + "/" + to)
	}
	if f.has('P') {
		here = to
	}
	at, err := c.view.resolve(c.dir, here, true)
	switch {
	case err == nil && (at.node == nil || at.null):
		err = errMissing
	case err == nil && !at.node.isDir():
		err = errNotDir
	}
	if err != nil {
		c.complain("cd: can't cd to %s: %v", to, err)
		return 1
	}
	if c.dir = at.name; f.has('P') {
		here = where(at.name)
	}
	c.here = here
	c.assign("OLDPWD", old)
	c.assign("PWD", here)
	return 0
}

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

func (c *call) setTrap() int {
	args := c.args[1:]
	if len(args) > 0 && args[0] == "--" {
		args = args[1:]
	}
	if len(args) < 2 {
		c.refuse(Unsupported, "trap without a signal")
	}
	for _, signal := range args[1:] {
		// Others never come: no one sends a signal to a build's script.
		if signal == "EXIT" || signal == "0" {
			if c.trap = args[0]; c.trap == "-" {
				c.trap = ""
			}
		}
	}
	return 0
}

func (c *call) setUmask() int {
	if len(c.args) == 1 {
		c.print("%04o\n", c.umask)
		return 0
	}
	n, err := strconv.ParseUint(c.args[1], 8, 32)
	if err != nil || n > 0o777 {
		c.refuse(Unsupported, "umask %s", c.args[1])
	}
	c.umask = int64(n)
	return 0
}

// runCommand runs a command that is no function, or describes it with -v.
func (c *call) runCommand() int {
	f, args := c.flags("+pvV")
	switch {
	case f.has('V'):
		c.refuse(Unsupported, "the option -V")
	case len(args) == 0:
		return 0
	case f.has('v'):
		status := 0
		for _, name := range args {
			text, found := c.find(name)
			if !found {
				status = 127
				continue
			}
			c.print("%s\n", text)
		}
		return status
	}
	c.shell.command = args[0]
	sub := c.callOf(args)
	if b := builtin(args[0]); b != nil {
		return b(sub)
	}
	return sub.external2()
}

// find says what a name of a command stands for.
func (c *call) find(name string) (string, bool) {
	if c.functions[name] != nil || builtin(name) != nil && name != "which" || slices.Contains([]string{"echo", "printf", "test", "["}, name) {
		return name, true
	}
	if _, p, found := c.searchPath(name); found {
		return p, true
	}
	if isApplet(name) {
		return "/bin/" + name, true
	}
	return "", false
}

// describe is type and which.
func (c *call) describe() int {
	status := 0
	for _, name := range c.args[1:] {
		if strings.HasPrefix(name, "-") {
			c.refuse(Unsupported, "the option %s", name)
		}
		text, found := c.find(name)
		switch {
		case !found && c.args[0] == "type":
			c.print("%s: not found\n", name)
			status = 127
		case !found:
			status = 1
		case c.args[0] == "type":
			c.print("%s is %s\n", name, text)
		case strings.Contains(text, "/"):
			c.print("%s\n", text)
		default:
			status = 1
		}
	}
	return status
}

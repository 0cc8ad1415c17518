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
	case "getopts":
		return (*call).getopts
	case "kill", "jobs", "fg", "bg":
		return func(c *call) int {
			c.refuse(Machine, "no process is there that it could be about")
			return 1
		}
	case "alias", "unalias", "ulimit", "times", "hash", "let", "builtin":
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
	defer func() { c.scripts-- }()
	params, loops := c.params, c.loops
	if len(c.args) > 2 {
		c.params = c.args[2:]
	}
	c.status, c.loops = 0, 0
	c.calls++
	c.source(b)
	c.calls--
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
	panic(exit{c.callOf(args).utility()})
}

// utility is external for commands that the shell has too.
func (c *call) utility() int {
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

package script

import (
	"bytes"
	"fmt"
	"maps"
	"path"
	"slices"
	"strings"

	"mvdan.cc/sh/v3/syntax"
)

// call is a command with its arguments.
type call struct {
	*shell
	args []string // its name first
}

// command is what a command does; it returns the exit status.
type command func(c *call) int

// assigns are the commands whose arguments may be assignments, which are not split.
var assigns = map[string]bool{"export": true, "readonly": true, "local": true}

// special are the commands of POSIX that end the shell where they fail, and that
// assignments before them outlive.
var special = map[string]bool{":": true, ".": true, "break": true, "continue": true, "eval": true, "exec": true, "exit": true,
	"export": true, "readonly": true, "return": true, "set": true, "shift": true, "times": true, "trap": true, "unset": true}

// call runs a simple command.
func (sh *shell) call(c *syntax.CallExpr, redirs []*syntax.Redirect) {
	sh.substituted = 0
	args := sh.ignored(c.Args)
	if args == nil {
		args = sh.arguments(c.Args)
	}
	files := sh.files
	defer func() { sh.files = files }()
	if len(args) > 0 {
		sh.command = args[0]
	}
	if len(redirs) > 0 && sh.command == "[[" {
		sh.refuse(Unsupported, "[[ with other operators than those of [")
	}
	if !sh.redirect(redirs) {
		sh.status = 1
		if len(args) > 0 && special[args[0]] {
			panic(exit{1})
		}
		return
	}
	if len(args) == 0 {
		for _, a := range c.Assigns {
			sh.assign(sh.assignment(a))
		}
		sh.status = sh.substituted
		return
	}
	old := map[string]variable{}
	for _, a := range c.Assigns {
		name, value := sh.assignment(a)
		sh.lend(old, name, value)
	}
	if len(old) > 0 && !special[args[0]] {
		defer sh.restore(old)
	}
	if args[0] == "exec" && len(args) == 1 {
		files = sh.files
		sh.status = 0
		return
	}
	sh.status = sh.run(args)
}

// lend sets a variable for one command, and keeps in old what it was before.
func (sh *shell) lend(old map[string]variable, name, value string) {
	if _, there := old[name]; !there {
		old[name] = sh.vars[name]
	}
	sh.assign(name, value)
	v := sh.vars[name]
	v.exported = true
	sh.vars[name] = v
}

// arguments expands the words of a command.
func (sh *shell) arguments(words []*syntax.Word) []string {
	if len(words) == 0 || !assigns[words[0].Lit()] {
		return sh.fields(words)
	}
	args := sh.fields(words[:1])
	for _, w := range words[1:] {
		name, value, assigned := "", "", false
		if lit, is := w.Parts[0].(*syntax.Lit); is {
			name, value, assigned = strings.Cut(lit.Value, "=")
		}
		if !assigned || !syntax.ValidName(name) {
			args = append(args, sh.fields([]*syntax.Word{w})...)
			continue
		}
		rest := &syntax.Word{Parts: append([]syntax.WordPart{&syntax.Lit{Value: value}}, w.Parts[1:]...)}
		args = append(args, name+"="+sh.text(rest))
	}
	return args
}

// assignment expands name=value.
func (sh *shell) assignment(a *syntax.Assign) (name, value string) {
	if a.Append || a.Index != nil || a.Array != nil || a.Naked || a.Name == nil {
		sh.refuse(Unsupported, "an assignment that ash does not have")
	}
	if a.Value == nil {
		return a.Name.Value, ""
	}
	return a.Name.Value, sh.making(a.Name.Value, func() string { return sh.text(a.Value) })
}

// declare is export, readonly or local where the parser knows them.
func (sh *shell) declare(c *syntax.DeclClause) {
	args := []string{c.Variant.Value}
	for _, a := range c.Args {
		switch {
		case a.Naked && a.Name != nil:
			args = append(args, a.Name.Value)
		case a.Naked:
			args = append(args, sh.fields([]*syntax.Word{a.Value})...)
		default:
			name, value := sh.assignment(a)
			args = append(args, name+"="+value)
		}
	}
	sh.command = args[0]
	sh.status = sh.run(args)
}

// run runs a command and returns its status: a function, a command of the shell, one
// of this package, a script of the tree.
func (sh *shell) run(args []string) int {
	defer sh.nest()()
	sh.step()
	size := 0
	for _, arg := range args {
		size += len(arg)
	}
	sh.effort(size)
	c := &call{shell: sh, args: args}
	name := args[0]
	if body := sh.functions[name]; body != nil && !special[name] {
		return sh.function(body, args[1:])
	}
	if f := builtin(name); f != nil {
		return f(c)
	}
	return c.external()
}

// function calls a function of the script.
func (sh *shell) function(body *syntax.Stmt, params []string) int {
	outer, loops, parsing := sh.params, sh.loops, sh.parsing
	scope := map[string]variable{}
	sh.params, sh.loops, sh.locals, sh.parsing = params, 0, append(sh.locals, scope), startParsing("1")
	sh.calls++
	sh.stmt(body)
	sh.calls--
	sh.params, sh.loops, sh.locals = outer, loops, sh.locals[:len(sh.locals)-1]
	// A local OPTIND has the caller's options begin at a word of their own.
	sh.parsing = parsing
	sh.restore(scope)
	if sh.leave == returning {
		sh.leave = staying
	}
	return sh.status
}

// binaries are the directories of commands.
var binaries = map[string]bool{"/bin": true, "/sbin": true, "/usr/bin": true, "/usr/sbin": true, "/usr/local/bin": true}

// external runs what is no command of the shell.
func (c *call) external() int {
	name := c.args[0]
	known := name
	if strings.Contains(name, "/") {
		known = ""
		if binaries[path.Dir(name)] {
			known = path.Base(name)
		}
	}
	if known != "" && c.options.Elsewhere[known] {
		c.elsewhere[known] = true
		return 0
	}
	if status, done := c.instead(known); done {
		return status
	}
	if f := applet(known); f != nil {
		return f(c)
	}
	at, found := c.search(name)
	if isApplet(known) && path.Base(at.name) == "busybox" {
		found = false // it is busybox' own command of that name
	}
	switch {
	case makesSecrets[path.Base(name)] && (found || isApplet(known)):
		c.refuse(Secret, "it makes a key, a password or an identity")
	case found:
		return c.program(at)
	case known == "awk":
		c.refuse(Unsupported, "programs of awk are not interpreted, those of sed are")
	case isApplet(known):
		c.refuse(Unsupported, "a command of busybox that this package does not know")
	}
	c.complain("%s: not found", name)
	return 127
}

// makesSecrets are programs whose output each machine has to have of its own.
var makesSecrets = map[string]bool{"openssl": true, "uuidgen": true, "dbus-uuidgen": true, "rndc-confgen": true, "ssh-keygen": true,
	"iscsi-iname": true, "iscsi-gen-initiatorname": true, "cf-key": true, "mkpasswd": true, "cryptpw": true, "chpasswd": true,
	"pwgen": true, "makepasswd": true, "gpg": true, "wg": true, "dropbearkey": true, "certtool": true, "shuf": true, "mcookie": true,
	"dnssec-keygen": true, "tor-gencert": true, "htpasswd": true, "systemd-machine-id-setup": true}

// search finds a program of the tree.
func (c *call) search(name string) (place, bool) {
	at, _, found := c.locate(name)
	return at, found
}

// locate is search, and returns the path by which it was found too.
func (c *call) locate(name string) (at place, by string, found bool) {
	dirs := []string{""}
	if !strings.Contains(name, "/") {
		list, _ := c.get("PATH")
		dirs = strings.Split(list, ":")
	}
	for _, dir := range dirs {
		p := name
		if dir != "" {
			p = strings.TrimSuffix(dir, "/") + "/" + name
		}
		c.step()
		at, err := c.view.resolve(c.dir, p, true)
		if err == nil && at.node != nil && at.node.isFile() && at.node.Mode&0o111 != 0 {
			return at, p, true
		}
	}
	return place{}, "", false
}

// program runs a script of the tree in a shell of its own, and refuses all else.
func (c *call) program(at place) int {
	if c.view.size(at.node) > maxScript {
		c.refuse(Foreign, "the program /%s would have to run", at.name)
	}
	script := c.view.contents(at.node)
	options, is := interpreter(script)
	if !is {
		c.refuse(Foreign, "the program /%s would have to run", at.name)
	}
	return c.script(script, append([]string{where(at.name)}, c.args[1:]...), options)
}

// script runs another script in a shell of its own.
func (c *call) script(script []byte, args, options []string) int {
	if c.scripts++; c.scripts > maxScripts {
		c.refuse(Limit, "more than %d scripts that call each other", maxScripts)
	}
	line, command := c.line, c.command
	status := c.subshell(func(sub *shell) {
		sub.name, sub.params = args[0], args[1:]
		sub.functions = map[string]*syntax.Stmt{}
		sub.modes = map[byte]bool{}
		sub.calls, sub.tolerant, sub.parsing = 0, 0, startParsing("1")
		maps.DeleteFunc(sub.vars, func(_ string, v variable) bool { return !v.exported })
		sub.vars["IFS"] = variable{value: " \t\n", set: true}
	}, func(sub *shell) {
		for _, o := range options {
			sub.set([]string{o})
		}
		sub.source(script)
	})
	c.line, c.command = line, command
	c.scripts--
	return status
}

// input returns what the command reads.
func (c *call) input() *source {
	if f := c.files[0]; f != nil && f.in != nil {
		return f.in
	}
	return &source{}
}

// write writes to the command's output.
func (c *call) write(p []byte) {
	c.effort(len(p))
	if f := c.files[1]; f != nil && f.out != nil {
		f.out.write(p)
	}
}

func (c *call) print(format string, args ...any) { c.write(fmt.Appendf(nil, format, args...)) }

// fail writes an error and returns the status of failure.
func (c *call) fail(format string, args ...any) int {
	if f := c.files[2]; f != nil && f.out != nil {
		f.out.write(fmt.Appendf(nil, "%s: %s\n", path.Base(c.args[0]), fmt.Sprintf(format, args...)))
	}
	return 1
}

// flags are options with their values, "" for those that take none.
type flags map[byte][]string

func (f flags) has(option byte) bool { return len(f[option]) > 0 }

// last returns the value of an option, or another one where it is not given.
func (f flags) last(option byte, otherwise string) string {
	if list := f[option]; len(list) > 0 {
		return list[len(list)-1]
	}
	return otherwise
}

// flags reads options as getopt does: letters, each with a colon behind it where it
// takes a value. Options may come behind operands, unless the letters begin with +.
// Long options are given as name=letter. An option that is not among them refuses
// the script: to ignore it would be to do something else.
func (c *call) flags(letters string, long ...string) (flags, []string) {
	f := flags{}
	var operands []string
	first, letters := strings.HasPrefix(letters, "+"), strings.TrimPrefix(letters, "+")
	for i := 1; i < len(c.args); i++ {
		arg := c.args[i]
		switch {
		case arg == "--":
			return f, append(operands, c.args[i+1:]...)
		case strings.HasPrefix(arg, "--"):
			i = c.longOption(f, letters, long, i)
		case len(arg) < 2 || arg[0] != '-':
			if first {
				return f, append(operands, c.args[i:]...)
			}
			operands = append(operands, arg)
		default:
			i = c.shortOptions(f, letters, i)
		}
	}
	return f, operands
}

func (c *call) shortOptions(f flags, letters string, i int) int {
	arg := c.args[i]
	for j := 1; j < len(arg); j++ {
		at := strings.IndexByte(letters, arg[j])
		if at < 0 || arg[j] == ':' {
			c.refuse(Unsupported, "the option -%c", arg[j])
		}
		if at+1 >= len(letters) || letters[at+1] != ':' {
			f[arg[j]] = append(f[arg[j]], "")
			continue
		}
		value := arg[j+1:]
		if value == "" {
			if i++; i >= len(c.args) {
				c.refuse(Unsupported, "the option -%c without a value", arg[j])
			}
			value = c.args[i]
		}
		f[arg[j]] = append(f[arg[j]], value)
		break
	}
	return i
}

func (c *call) longOption(f flags, letters string, long []string, i int) int {
	name, value, given := strings.Cut(c.args[i][2:], "=")
	at := slices.IndexFunc(long, func(l string) bool { return strings.HasPrefix(l, name+"=") })
	if at < 0 {
		c.refuse(Unsupported, "the option --%s", name)
	}
	letter := long[at][len(name)+1]
	takes := strings.Contains(letters, string(letter)+":")
	switch {
	case takes && !given:
		if i++; i >= len(c.args) {
			c.refuse(Unsupported, "the option --%s without a value", name)
		}
		value = c.args[i]
	case !takes && given:
		c.refuse(Unsupported, "the option --%s with a value", name)
	}
	f[letter] = append(f[letter], value)
	return i
}

// texts returns the contents of files, or the input where none is named. Files that
// cannot be read are complained about.
func (c *call) texts(names []string) (all [][]byte, status int) {
	if len(names) == 0 {
		names = []string{"-"}
	}
	for _, name := range names {
		if name == "-" {
			all = append(all, c.input().rest())
			continue
		}
		b, err := c.read(name)
		if err != nil {
			status = c.fail("%s: %v", name, err)
			continue
		}
		all = append(all, b)
	}
	return all, status
}

// lines cuts a text into lines without their ends.
func lines(b []byte) []string {
	if len(b) == 0 {
		return nil
	}
	var list []string
	for _, line := range bytes.Split(bytes.TrimSuffix(b, []byte("\n")), []byte("\n")) {
		list = append(list, string(line))
	}
	return list
}

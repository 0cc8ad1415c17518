package script

import (
	"bytes"
	"maps"
	"strings"

	"mvdan.cc/sh/v3/syntax"
)

type variable struct {
	value    string
	set      bool
	exported bool
	fixed    bool // readonly
}

// leaving is what takes a shell out of the commands it is in.
type leaving int

const (
	staying leaving = iota
	breaking
	continuing
	returning
)

// exit ends a shell; toplevel and subshell recover it.
type exit struct{ status int }

// shell is one shell: the script's own, or a copy of it for commands that
// change nothing of theirs.
type shell struct {
	*machine
	name      string // $0
	params    []string
	vars      map[string]variable
	functions map[string]*syntax.Stmt
	files     [maxFiles]*stream
	dir       string // where it is, without a slash before it
	here      string // the path by which it came there
	umask     int64
	status    int
	// substituted is the status of the last command substitution in the words of the
	// command at hand.
	substituted int
	trap        string // for EXIT
	modes       map[byte]bool
	leave       leaving
	levels      int                   // of loops that are left
	loops       int                   // that it is in
	calls       int                   // of functions and sourced files that it is in
	locals      []map[string]variable // what local variables hide, by call
	parsing     parsing               // of getopts
	tolerant    int                   // above 0, failure does not end it in spite of -e
}

// searchPath is what apk gives scripts (src/package.c of apk-tools).
const searchPath = "/usr/sbin:/usr/bin:/sbin:/bin"

func newShell(m *machine) *shell {
	out := &stream{out: m.output}
	sh := &shell{machine: m, parsing: startParsing("1"), name: m.options.Name, params: m.options.Args, here: "/", umask: 0o022,
		functions: map[string]*syntax.Stmt{},
		modes:     map[byte]bool{}, vars: map[string]variable{
			"PATH": {value: searchPath, set: true, exported: true}, "PWD": {value: "/", set: true, exported: true},
			"IFS": {value: " \t\n", set: true}, "OPTIND": {value: "1", set: true}, "PS1": {value: "# ", set: true},
			"PS2": {value: "> ", set: true}, "PS4": {value: "+ ", set: true}, "PPID": {value: "1", set: true},
		}}
	sh.files = [maxFiles]*stream{{in: &source{}}, out, out}
	return sh
}

// copy returns a shell that begins as this one is.
func (sh *shell) copy() *shell {
	sub := *sh
	sub.vars, sub.functions, sub.modes = maps.Clone(sh.vars), maps.Clone(sh.functions), maps.Clone(sh.modes)
	sub.locals, sub.trap, sub.leave, sub.loops = nil, "", staying, 0
	sh.effort(32 * (len(sh.vars) + len(sh.functions)))
	return &sub
}

// toplevel runs what a shell does and returns its exit status.
func (sh *shell) toplevel(f func()) int {
	sh.untilExit(f)
	if trap := sh.trap; trap != "" {
		sh.trap, sh.leave, sh.tolerant = "", staying, 0
		status := sh.status
		sh.untilExit(func() {
			sh.source([]byte(trap))
			sh.status = status
		})
	}
	return sh.status
}

func (sh *shell) untilExit(f func()) {
	defer func() {
		switch r := recover().(type) {
		case nil:
		case exit:
			sh.status = r.status & 0xff
		default:
			panic(r)
		}
	}()
	f()
}

// subshell runs commands in a copy of the shell.
func (sh *shell) subshell(prepare func(*shell), f func(*shell)) int {
	defer sh.nest()()
	nesting := sh.nesting
	sub := sh.copy()
	if prepare != nil {
		prepare(sub)
	}
	status := 0
	sh.making("", func() string {
		status = sub.toplevel(func() { f(sub) })
		return ""
	})
	sh.nesting = nesting
	return status
}

// source runs a script in this shell.
func (sh *shell) source(script []byte) {
	if len(script) > maxScript {
		sh.refuse(Limit, "a script of more than %d KiB", maxScript>>10)
	}
	sh.effort(16 * len(script))
	if bytes.IndexByte(script, 0) >= 0 {
		sh.refuse(Syntax, "the script has a NUL byte")
	}
	sh.checkNesting(script)
	file := parse(script)
	sh.list(file.Stmts)
}

// checkNesting refuses what would have the parser call itself too deep.
func (sh *shell) checkNesting(script []byte) {
	opened := 0
	for _, c := range script {
		switch c {
		case '(', '{':
			opened++
		case ')', '}':
			opened = max(opened-1, 0)
		}
		if opened > 2*maxNesting {
			sh.refuse(Limit, "the script opens more than %d brackets", 2*maxNesting)
		}
	}
}

// list runs commands one after the other.
func (sh *shell) list(list []*syntax.Stmt) {
	for _, s := range list {
		if sh.stmt(s); sh.leave != staying {
			return
		}
	}
}

// stmt runs a command with its redirections.
func (sh *shell) stmt(s *syntax.Stmt) {
	defer sh.nest()()
	sh.at(s)
	sh.step()
	if s.Background || s.Coprocess || s.Disown {
		sh.refuse(Background, "a command ends with &")
	}
	if s.Negated {
		sh.tolerant++
		defer func() { sh.tolerant-- }()
	}
	checked := false // its own parts have been looked at for -e
	switch c := s.Cmd.(type) {
	case *syntax.CallExpr:
		sh.call(c, s.Redirs)
	case nil:
		sh.status = 0
		sh.call(&syntax.CallExpr{}, s.Redirs)
	default:
		checked = sh.compound(c, s.Redirs)
	}
	switch {
	case s.Negated && sh.leave == staying:
		sh.status = 1 - min(sh.status, 1)
	case !checked:
		sh.checkFailure()
	}
}

// at notes where the script is, for what is said about it.
func (sh *shell) at(s *syntax.Stmt) {
	sh.line, sh.command = int(s.Pos().Line()), ""
	if c, is := s.Cmd.(*syntax.CallExpr); is && len(c.Args) > 0 {
		sh.command = c.Args[0].Lit()
	}
}

// checkFailure ends the shell where -e asks for that.
func (sh *shell) checkFailure() {
	if sh.status != 0 && sh.modes['e'] && sh.tolerant == 0 && sh.leave == staying {
		panic(exit{sh.status})
	}
}

// compound runs what is no simple command, and reports whether -e is done with it.
func (sh *shell) compound(c syntax.Command, redirs []*syntax.Redirect) (checked bool) {
	files := sh.files
	defer func() { sh.files = files }()
	if !sh.redirect(redirs) {
		sh.status = 1
		return false
	}
	switch c := c.(type) {
	case *syntax.BinaryCmd:
		return sh.binary(c)
	case *syntax.Block:
		sh.list(c.Stmts)
	case *syntax.Subshell:
		if sh.ownPart(c.Stmts) {
			return false
		}
		sh.status = sh.subshell(nil, func(sub *shell) { sub.list(c.Stmts) })
		return false
	case *syntax.IfClause:
		sh.ifClause(c)
	case *syntax.WhileClause:
		sh.whileClause(c)
	case *syntax.ForClause:
		sh.forClause(c)
	case *syntax.CaseClause:
		sh.caseClause(c)
	case *syntax.FuncDecl:
		if c.Name == nil || !syntax.ValidName(c.Name.Value) && strings.ContainsAny(c.Name.Value, "/$`\"'\\") {
			sh.refuse(Unsupported, "the name of a function")
		}
		sh.functions[c.Name.Value] = c.Body
		sh.status = 0
	case *syntax.DeclClause:
		sh.declare(c)
		return false
	case *syntax.TestClause:
		sh.command = "[["
		args := sh.testArguments([]string{"["}, c.X)
		sh.status = sh.callOf(append(args, "]")).test()
		return false
	default:
		sh.refuse(Unsupported, "a construct that ash does not have")
	}
	return true
}

func (sh *shell) binary(c *syntax.BinaryCmd) (checked bool) {
	switch c.Op {
	case syntax.AndStmt, syntax.OrStmt:
		sh.tolerant++
		sh.stmt(c.X)
		sh.tolerant--
		if sh.leave == staying && (sh.status == 0) == (c.Op == syntax.AndStmt) {
			sh.stmt(c.Y)
		}
		return true
	case syntax.Pipe:
		sh.pipe(c)
		return false
	}
	sh.refuse(Unsupported, "the operator %s", c.Op)
	return true
}

// pipe runs the commands of a pipeline one after the other, each in a shell of
// its own.
func (sh *shell) pipe(c *syntax.BinaryCmd) {
	between := &buffer{m: sh.machine, what: "what is written to a pipe"}
	left := func(sub *shell) { sub.files[1] = &stream{out: between} }
	sh.subshell(left, func(sub *shell) { sub.stmt(c.X) })
	right := func(sub *shell) { sub.files[0] = &stream{in: &source{data: between.Bytes()}} }
	sh.status = sh.subshell(right, func(sub *shell) { sub.stmt(c.Y) })
}

func (sh *shell) ifClause(c *syntax.IfClause) {
	defer sh.nest()()
	for ; c != nil; c = c.Else {
		if len(c.Cond) == 0 { // else
			sh.list(c.Then)
			return
		}
		sh.condition(c.Cond)
		if sh.leave != staying {
			return
		}
		if sh.status == 0 {
			sh.list(c.Then)
			return
		}
	}
	sh.status = 0
}

func (sh *shell) condition(list []*syntax.Stmt) {
	sh.tolerant++
	sh.list(list)
	sh.tolerant--
}

func (sh *shell) whileClause(c *syntax.WhileClause) {
	status := 0
	sh.loops++
	defer func() { sh.loops-- }()
	for {
		sh.step()
		sh.condition(c.Cond)
		if sh.leave == staying {
			if (sh.status == 0) == c.Until {
				break
			}
			sh.list(c.Do)
			status = sh.status
		}
		if sh.leavesLoop() {
			status = sh.status
			break
		}
	}
	sh.status = status
}

// leavesLoop reports whether the innermost loop ends here.
func (sh *shell) leavesLoop() bool {
	switch sh.leave {
	case returning:
		return true
	case breaking, continuing:
		if sh.levels--; sh.levels > 0 {
			return true
		}
		over := sh.leave == breaking
		sh.leave = staying
		return over
	}
	return false
}

func (sh *shell) forClause(c *syntax.ForClause) {
	words, is := c.Loop.(*syntax.WordIter)
	if !is || c.Select {
		sh.refuse(Unsupported, "a loop that ash does not have")
	}
	items := sh.params
	if words.InPos.IsValid() {
		items = sh.fields(words.Items)
	}
	sh.status = 0
	sh.loops++
	defer func() { sh.loops-- }()
	for _, item := range items {
		sh.step()
		sh.assign(words.Name.Value, item)
		sh.list(c.Do)
		if sh.leavesLoop() {
			break
		}
	}
}

func (sh *shell) caseClause(c *syntax.CaseClause) {
	word := sh.text(c.Word)
	sh.status = 0
	for _, item := range c.Items {
		if item.Op != syntax.Break {
			sh.refuse(Unsupported, "the operator %s", item.Op)
		}
		for _, pattern := range item.Patterns {
			sh.step()
			if sh.match(sh.pattern(pattern), word) {
				sh.list(item.Stmts)
				return
			}
		}
	}
}

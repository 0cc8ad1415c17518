package importer

import (
	"slices"
	"strings"

	"mvdan.cc/sh/v3/syntax"

	"github.com/pikelet-os/pikelet/internal/shared/nodeconfig"
)

// literal returns a word of a shell with a hole for each part that only a shell
// could fill in.
func literal(w *syntax.Word) string {
	if w == nil {
		return ""
	}
	var b strings.Builder
	parts(&b, w.Parts)
	return b.String()
}

func parts(b *strings.Builder, list []syntax.WordPart) {
	for _, part := range list {
		switch part := part.(type) {
		case *syntax.Lit:
			b.WriteString(unescape(part.Value))
		case *syntax.SglQuoted:
			b.WriteString(part.Value)
		case *syntax.DblQuoted:
			parts(b, part.Parts)
		default:
			b.WriteString(hole)
		}
	}
}

// unescape takes the backslashes away that a shell takes away outside of quotes.
func unescape(text string) string {
	if !strings.Contains(text, `\`) {
		return text
	}
	var b strings.Builder
	for i := 0; i < len(text); i++ {
		if text[i] == '\\' && i+1 < len(text) {
			if i++; text[i] == '\n' {
				continue
			}
		}
		b.WriteByte(text[i])
	}
	return b.String()
}

// assigned is a variable of a shell.
type assigned struct {
	name, val string
	at        place
}

// command is a simple command of a shell script.
type command struct {
	vars  []assigned
	words []word
	at    place
}

// commands returns the simple commands of a script, those of pipelines together, in
// the order in which they stand. ok is false for what is no script.
func commands(file, text string, base int) (list [][]command, ok bool) {
	f, err := syntax.NewParser(syntax.Variant(syntax.LangBash)).Parse(strings.NewReader(text), "")
	if err != nil {
		return nil, false
	}
	at := func(n syntax.Node) place { return place{file, base + int(n.Pos().Line())} }
	simple := func(s *syntax.Stmt) (c command, ok bool) {
		switch cmd := s.Cmd.(type) {
		case *syntax.CallExpr:
			c.at = at(cmd)
			for _, a := range cmd.Assigns {
				if a.Name != nil {
					c.vars = append(c.vars, assigned{a.Name.Value, literal(a.Value), at(a)})
				}
			}
			for _, w := range cmd.Args {
				c.words = append(c.words, word{literal(w), at(w)})
			}
			return c, true
		case *syntax.DeclClause:
			c.at = at(cmd)
			for _, a := range cmd.Args {
				if a.Name != nil && a.Value != nil {
					c.vars = append(c.vars, assigned{a.Name.Value, literal(a.Value), at(a)})
				}
			}
			return c, true
		}
		return c, false
	}
	var pipeline func(s *syntax.Stmt) []command
	pipeline = func(s *syntax.Stmt) []command {
		if b, is := s.Cmd.(*syntax.BinaryCmd); is && (b.Op == syntax.Pipe || b.Op == syntax.PipeAll) {
			return append(pipeline(b.X), pipeline(b.Y)...)
		}
		if c, ok := simple(s); ok {
			return []command{c}
		}
		return nil
	}
	syntax.Walk(f, func(n syntax.Node) bool {
		s, is := n.(*syntax.Stmt)
		if !is {
			return true
		}
		if b, is := s.Cmd.(*syntax.BinaryCmd); is && (b.Op == syntax.AndStmt || b.Op == syntax.OrStmt) {
			return true
		}
		if p := pipeline(s); len(p) > 0 {
			list = append(list, p)
			return false
		}
		return true
	})
	return list, true
}

// program returns the first word of a command that is no prefix such as sudo, and
// what follows.
func (c command) program() (string, []word) {
	words := c.words
	for len(words) > 0 && slices.Contains([]string{"sudo", "env", "exec", "time", "nohup"}, words[0].text) {
		words = words[1:]
		for len(words) > 0 && (strings.HasPrefix(words[0].text, "-") || strings.Contains(words[0].text, "=")) {
			words = words[1:]
		}
	}
	if len(words) == 0 {
		return "", nil
	}
	return words[0].text, words[1:]
}

// install is a run of k3s' installer.
type install struct {
	vars []assigned
	args []word
	at   place
}

// role returns what the installer makes of a machine: an agent where it has a
// server's address and no other role is named.
func (i install) role() string {
	if role := roleOf(i.args); role != "" {
		return role
	}
	for _, v := range i.vars {
		if v.name == "K3S_URL" && v.val != "" {
			return "agent"
		}
	}
	return "server"
}

// installer returns the run of k3s' installer that a pipeline is; ok is false for
// any other. exported are variables that were set before.
func installer(pipe []command, exported []assigned) (run install, ok bool) {
	fetches := false
	for _, c := range pipe {
		for _, w := range c.words {
			fetches = fetches || strings.Contains(w.text, "get.k3s.io") || strings.Contains(w.text, "k3s-install.sh")
		}
	}
	if !fetches || len(pipe) == 0 {
		return run, false
	}
	run.at = pipe[0].at
	run.vars = append(run.vars, exported...)
	last := pipe[len(pipe)-1]
	for _, c := range pipe {
		run.vars = append(run.vars, c.vars...)
		for _, w := range c.words { // env NAME=VALUE sh
			if name, val, is := strings.Cut(w.text, "="); is && (strings.HasPrefix(name, "K3S_") || strings.HasPrefix(name, "INSTALL_K3S_")) {
				run.vars = append(run.vars, assigned{name, val, w.at})
			}
		}
	}
	for _, v := range run.vars {
		if v.name == "INSTALL_K3S_EXEC" {
			run.args = append(run.args, splitWords(v.val, func(int) place { return v.at })...)
		}
	}
	shell, rest := last.program()
	if shell == "sh" || shell == "bash" || shell == "ash" || strings.HasSuffix(shell, "/sh") || strings.HasSuffix(shell, "/bash") {
		for len(rest) > 0 && (rest[0].text == "-" || rest[0].text == "-s" || rest[0].text == "--" || rest[0].text == "-x") {
			rest = rest[1:]
		}
		run.args = append(run.args, rest...)
	}
	return run, true
}

// script reads commands that run once on a machine, for what they do with k3s. All
// others are noted by their programs: their arguments may be secret.
func (d *draft) script(n *nodeconfig.Node, what, file, text string, base int) {
	const carried = "commands are not carried; packages and services are part of the image"
	list, ok := commands(file, text, base)
	if !ok {
		d.note(place{file, base + 1}, what, carried)
		return
	}
	var exported []assigned
	for _, pipe := range list {
		if run, is := installer(pipe, exported); is {
			d.installs(n, run)
			exported = nil
			continue
		}
		c := pipe[0]
		if len(c.words) == 0 {
			exported = append(exported, c.vars...)
			continue
		}
		program, rest := c.program()
		if slices.Contains([]string{"sh", "bash"}, program) && len(rest) > 1 && rest[0].text == "-c" && !strings.Contains(rest[1].text, hole) {
			d.script(n, what, file, rest[1].text, rest[1].at.line-1)
			continue
		}
		if len(program) > 40 || strings.Contains(program, hole) {
			program = "..."
		}
		d.note(c.at, what+": "+program, carried)
	}
	for _, v := range exported {
		d.note(v.at, what+": "+v.name, carried)
	}
}

// installs makes a node of what k3s' installer was run with.
func (d *draft) installs(n *nodeconfig.Node, run install) {
	if n.K3s.Role != "" && n.K3s.Role != run.role() {
		d.notef(run.at, "k3s installer", "the machine is %s already", n.K3s.Role)
		return
	}
	n.K3s.Role = run.role()
	for _, v := range run.vars {
		if v.name == "INSTALL_K3S_EXEC" {
			continue
		}
		d.variable(n, v.name, v.val, v.at)
	}
	d.arguments(n, run.args)
}

package script

import (
	"archive/tar"
	"errors"
	"strconv"
	"strings"

	"mvdan.cc/sh/v3/syntax"
)

// redirect opens files for a command. It reports whether all could be opened, and
// has complained otherwise.
func (sh *shell) redirect(list []*syntax.Redirect) bool {
	for _, r := range list {
		if !sh.redirectOne(r) {
			return false
		}
	}
	return true
}

func (sh *shell) redirectOne(r *syntax.Redirect) bool {
	fd := 1
	switch r.Op {
	case syntax.RdrIn, syntax.RdrInOut, syntax.DplIn, syntax.Hdoc, syntax.DashHdoc:
		fd = 0
	}
	if r.N != nil {
		n, err := strconv.Atoi(r.N.Value)
		if err != nil || n >= len(sh.files) {
			sh.refuse(Unsupported, "the file descriptor %s", r.N.Value)
		}
		fd = n
	}
	switch r.Op {
	case syntax.Hdoc, syntax.DashHdoc:
		sh.files[fd] = &stream{in: &source{data: []byte(sh.hereDoc(r))}}
		return true
	case syntax.DplIn, syntax.DplOut:
		return sh.duplicate(fd, sh.text(r.Word))
	}
	name := sh.text(r.Word)
	s, err := sh.open(name, r.Op)
	if err != nil {
		verb := "create"
		if r.Op == syntax.RdrIn {
			verb = "open"
		}
		if errors.Is(err, errMissing) {
			err = errno("nonexistent directory")
			if r.Op == syntax.RdrIn {
				err = errno("no such file")
			}
		}
		sh.complain("can't %s %s: %v", verb, name, err)
		return false
	}
	sh.files[fd] = s
	if r.Op == syntax.RdrAll || r.Op == syntax.AppAll {
		sh.files[1], sh.files[2] = s, s
	}
	return true
}

// duplicate makes a descriptor a copy of another, or closes it.
func (sh *shell) duplicate(fd int, to string) bool {
	if to == "-" {
		sh.files[fd] = nil
		return true
	}
	n, err := strconv.Atoi(to)
	if err != nil || n < 0 || n >= len(sh.files) {
		sh.refuse(Unsupported, "the file descriptor %q", to)
	}
	if sh.files[n] == nil {
		sh.complain("%d: Bad file descriptor", n)
		return false
	}
	sh.files[fd] = sh.files[n]
	return true
}

// open opens a file of the tree for a redirection.
func (sh *shell) open(name string, op syntax.RedirOperator) (*stream, error) {
	for fd, device := range []string{"/dev/stdin", "/dev/stdout", "/dev/stderr"} {
		if name == device && sh.files[fd] != nil {
			return sh.files[fd], nil
		}
	}
	if op == syntax.RdrIn {
		at, err := sh.readable(name)
		if err != nil {
			return nil, err
		}
		if at.null {
			return &stream{in: &source{}}, nil
		}
		sh.view.contents(at.node)
		return &stream{in: &source{view: sh.view, file: at.node}}, nil
	}
	at, err := sh.view.resolve(sh.dir, name, true)
	switch {
	case err != nil:
		return nil, err
	case at.null:
		return &stream{in: &source{}, out: nowhere{}}, nil
	case at.node == nil:
		if strings.HasSuffix(name, "/") {
			return nil, errIsDir
		}
		at.node = sh.view.create(at.name, tar.TypeReg, 0o666&^sh.umask)
	case at.node.isDir():
		return nil, errIsDir
	case !at.node.isFile():
		sh.refuse(Machine, "it writes to /%s, which is no file", at.name)
	}
	file := &fileSink{view: sh.view, file: at.node}
	switch op {
	case syntax.RdrOut, syntax.RdrClob, syntax.RdrAll:
		if sh.view.size(at.node) > 0 {
			sh.view.touch(at.name)
			sh.view.write(at.node, nil)
		}
	case syntax.AppOut, syntax.AppAll:
		file.append = true
	default:
		sh.refuse(Unsupported, "the redirection %s", op)
	}
	sh.view.touch(at.name)
	return &stream{out: file}, nil
}

// read returns the contents of a file of the tree.
func (sh *shell) read(name string) ([]byte, error) {
	at, err := sh.readable(name)
	if err != nil || at.null {
		return nil, err
	}
	return sh.view.contents(at.node), nil
}

// readable finds a file whose contents can be read, or /dev/null.
func (sh *shell) readable(name string) (place, error) {
	at, err := sh.view.resolve(sh.dir, name, true)
	switch {
	case err != nil || at.null:
		return at, err
	case at.node == nil:
		return at, errMissing
	case at.node.isDir():
		return at, errIsDir
	case !at.node.isFile():
		sh.refuse(Machine, "it reads /%s, which is no file", at.name)
	}
	return at, nil
}

// hereDoc returns the text of a here-document. Nothing in it is expanded where
// any of its end mark is quoted.
func (sh *shell) hereDoc(r *syntax.Redirect) string {
	if r.Hdoc == nil {
		return ""
	}
	quoted := false
	for _, part := range r.Word.Parts {
		lit, plain := part.(*syntax.Lit)
		quoted = quoted || !plain || strings.Contains(lit.Value, `\`)
	}
	body := r.Hdoc
	if r.Op == syntax.DashHdoc {
		body = withoutTabs(body)
	}
	if !quoted {
		return sh.document(body)
	}
	var b strings.Builder
	for _, part := range body.Parts {
		if lit, is := part.(*syntax.Lit); is {
			b.WriteString(lit.Value)
		}
	}
	sh.bound(b.Len(), "a here-document")
	return b.String()
}

// withoutTabs takes the tabs at the beginning of lines out of a here-document.
func withoutTabs(w *syntax.Word) *syntax.Word {
	out := &syntax.Word{}
	begins := true
	for _, part := range w.Parts {
		lit, is := part.(*syntax.Lit)
		if !is {
			out.Parts, begins = append(out.Parts, part), false
			continue
		}
		lines := strings.SplitAfter(lit.Value, "\n")
		for i, line := range lines {
			if begins || i > 0 {
				lines[i] = strings.TrimLeft(line, "\t")
			}
		}
		if lit.Value != "" {
			begins = strings.HasSuffix(lit.Value, "\n")
		}
		copied := *lit
		copied.Value = strings.Join(lines, "")
		out.Parts = append(out.Parts, &copied)
	}
	return out
}

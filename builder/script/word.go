package script

import (
	"strings"

	"mvdan.cc/sh/v3/syntax"
)

// field is a word as a command gets it, and the same with what was quoted
// escaped, for comparing names with it.
type field struct {
	text, pattern strings.Builder
	magic         bool // something that was not quoted has a sign of patterns
}

// splitter makes fields of the parts of a word.
type splitter struct {
	sh      *shell
	ifs     string
	done    []*field
	now     *field // nil between fields
	noSplit bool
}

func (f *splitter) begin() *field {
	if f.now == nil {
		f.now = &field{}
	}
	return f.now
}

func (f *splitter) end() {
	if f.now != nil {
		f.done = append(f.done, f.now)
		f.now = nil
	}
	if len(f.done) > maxFields {
		f.sh.refuse(Limit, "more than %d words", maxFields)
	}
}

// add adds text to the field; quoted text means what it says.
func (f *splitter) add(s string, quoted bool) {
	now := f.begin()
	f.sh.effort(len(s))
	f.sh.bound(now.text.Len()+len(s), "a word")
	now.text.WriteString(s)
	if !quoted {
		now.magic = now.magic || strings.ContainsAny(s, "*?[")
		now.pattern.WriteString(s)
		return
	}
	for i := range len(s) {
		if strings.IndexByte(`*?[]\-!^`, s[i]) >= 0 {
			now.pattern.WriteByte('\\')
		}
		now.pattern.WriteByte(s[i])
	}
}

// split adds what an expansion gave, cut into fields at the signs of IFS.
func (f *splitter) split(s string) {
	if f.noSplit || f.ifs == "" {
		if s != "" {
			f.add(s, false)
		}
		return
	}
	f.sh.effort(len(s))
	const blanks = " \t\n"
	space := func(c byte) bool { return strings.IndexByte(blanks, c) >= 0 && strings.IndexByte(f.ifs, c) >= 0 }
	sign := func(c byte) bool { return strings.IndexByte(f.ifs, c) >= 0 }
	for i := 0; i < len(s); {
		if !sign(s[i]) {
			n := i
			for n < len(s) && !sign(s[n]) {
				n++
			}
			f.add(s[i:n], false)
			i = n
			continue
		}
		// A run of blanks with one other sign in it ends one field.
		for i < len(s) && space(s[i]) {
			i++
		}
		if i < len(s) && sign(s[i]) {
			f.begin()
			for i++; i < len(s) && space(s[i]); i++ {
			}
		}
		f.end()
	}
}

func (sh *shell) splitter() *splitter {
	ifs, set := sh.get("IFS")
	if !set {
		ifs = " \t\n"
	}
	return &splitter{sh: sh, ifs: ifs}
}

// fields expands the words of a command.
func (sh *shell) fields(words []*syntax.Word) []string {
	var list []string
	for _, w := range words {
		f := sh.splitter()
		sh.parts(f, sh.tilde(f, w.Parts, false), false)
		f.end()
		for _, one := range f.done {
			list = append(list, sh.glob(one)...)
		}
		if len(list) > maxFields {
			sh.refuse(Limit, "more than %d words", maxFields)
		}
	}
	return list
}

// joined expands a word to one field.
func (sh *shell) joined(w *syntax.Word, assignment bool) *field {
	f := sh.splitter()
	f.noSplit = true
	if w != nil {
		sh.parts(f, sh.tilde(f, w.Parts, assignment), false)
	}
	return f.begin()
}

// text expands a word to text, as in an assignment.
func (sh *shell) text(w *syntax.Word) string { return sh.joined(w, true).text.String() }

// pattern expands a word to a pattern.
func (sh *shell) pattern(w *syntax.Word) string { return sh.joined(w, false).pattern.String() }

// document expands a here-document.
func (sh *shell) document(w *syntax.Word) string {
	if w == nil {
		return ""
	}
	f := sh.splitter()
	f.noSplit = true
	for _, part := range w.Parts {
		if lit, is := part.(*syntax.Lit); is {
			f.add(unescape(lit.Value, "$`\\"), true)
			continue
		}
		sh.part(f, part, true)
	}
	return f.begin().text.String()
}

// tilde expands the home directory at the beginning of a word, and behind each
// colon of an assignment, and returns what is left of the parts.
func (sh *shell) tilde(f *splitter, parts []syntax.WordPart, assignment bool) []syntax.WordPart {
	if len(parts) == 0 {
		return nil
	}
	lit, is := parts[0].(*syntax.Lit)
	if !is || !strings.HasPrefix(lit.Value, "~") {
		if is && assignment && strings.Contains(lit.Value, ":~") {
			sh.refuse(Unsupported, "a ~ inside a list of paths")
		}
		return parts
	}
	name, rest := lit.Value[1:], ""
	if i := strings.IndexAny(name, "/:"); i >= 0 {
		name, rest = name[:i], name[i:]
	} else if len(parts) > 1 {
		return parts
	}
	home, found := "", false
	if name == "" {
		home, found = sh.get("HOME")
	} else if u := sh.accounts.user(sh.view, name); u != nil {
		home, found = u[5], true
	}
	if !found {
		return parts
	}
	f.add(home, true)
	return append([]syntax.WordPart{&syntax.Lit{Value: rest, ValuePos: lit.ValuePos, ValueEnd: lit.ValueEnd}}, parts[1:]...)
}

func (sh *shell) parts(f *splitter, parts []syntax.WordPart, quoted bool) {
	for i, part := range parts {
		if lit, is := part.(*syntax.Lit); is && !quoted && i+1 < len(parts) && strings.HasSuffix(lit.Value, "$") &&
			!strings.HasSuffix(lit.Value, `\$`) && isSingle(parts[i+1]) {
			sh.refuse(Unsupported, "quotes behind a dollar sign")
		}
		sh.part(f, part, quoted)
	}
}

// isSingle reports whether a part is text in single quotes.
func isSingle(part syntax.WordPart) bool {
	_, is := part.(*syntax.SglQuoted)
	return is
}

// part expands a part of a word.
func (sh *shell) part(f *splitter, part syntax.WordPart, quoted bool) {
	defer sh.nest()()
	switch p := part.(type) {
	case *syntax.Lit:
		if quoted {
			f.add(unescape(p.Value, "$`\"\\"), true)
			return
		}
		sh.literal(f, p.Value)
	case *syntax.SglQuoted:
		text := p.Value
		if p.Dollar {
			text = sh.dollarQuoted(text)
		}
		f.add(text, true)
	case *syntax.DblQuoted:
		if p.Dollar { // ash has no such quotes
			f.add("$", false)
		}
		if !onlyAll(p.Parts) {
			f.begin()
		}
		sh.parts(f, p.Parts, true)
	case *syntax.ParamExp:
		sh.param(f, p, quoted)
	case *syntax.CmdSubst:
		if p.TempFile || p.ReplyVar {
			sh.refuse(Unsupported, "a substitution that ash does not have")
		}
		sh.step()
		sh.put(f, sh.substitute(p), quoted)
	case *syntax.ArithmExp:
		if p.Bracket || p.Unsigned {
			sh.refuse(Unsupported, "arithmetic that ash does not have")
		}
		sh.step()
		sh.put(f, sh.making("", func() string { return sh.arithmetic(p.X) }), quoted)
	case *syntax.ProcSubst:
		sh.refuse(Machine, "it names a pipe, by /dev/fd")
	default:
		sh.refuse(Unsupported, "an expansion that ash does not have")
	}
}

// onlyAll reports whether quotes hold nothing but $@, which may be no word at all.
func onlyAll(parts []syntax.WordPart) bool {
	if len(parts) != 1 {
		return false
	}
	p, is := parts[0].(*syntax.ParamExp)
	return is && p.Param != nil && p.Param.Value == "@" && p.Exp == nil && !p.Length
}

// put adds what an expansion gave.
func (sh *shell) put(f *splitter, s string, quoted bool) {
	if quoted {
		f.add(s, true)
		return
	}
	f.split(s)
}

// literal adds text of the script in which a backslash quotes.
func (sh *shell) literal(f *splitter, s string) {
	for s != "" {
		i := strings.IndexByte(s, '\\')
		if i < 0 {
			f.add(s, false)
			return
		}
		if i > 0 {
			f.add(s[:i], false)
		}
		if i+1 == len(s) {
			f.add(`\`, true)
			return
		}
		if s[i+1] != '\n' {
			f.add(s[i+1:i+2], true)
		}
		s = s[i+2:]
	}
}

// unescape takes backslashes away that quote one of signs, or a line's end.
func unescape(s, signs string) string {
	if !strings.Contains(s, `\`) {
		return s
	}
	var b strings.Builder
	for i := 0; i < len(s); i++ {
		if s[i] == '\\' && i+1 < len(s) {
			if s[i+1] == '\n' {
				i++
				continue
			}
			if strings.IndexByte(signs, s[i+1]) >= 0 {
				i++
			}
		}
		b.WriteByte(s[i])
	}
	return b.String()
}

// substitute runs commands and returns their output without line ends at its end.
// Their status is not $?, but that of a command that is nothing else.
func (sh *shell) substitute(c *syntax.CmdSubst) string {
	out := &buffer{m: sh.machine, what: "the output of a command"}
	line, command := sh.line, sh.command
	to := func(sub *shell) { sub.files[1] = &stream{out: out} }
	sh.substituted = sh.subshell(to, func(sub *shell) { sub.list(c.Stmts) })
	sh.line, sh.command = line, command
	return strings.TrimRight(strings.ReplaceAll(out.String(), "\x00", ""), "\n")
}

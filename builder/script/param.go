package script

import (
	"strconv"
	"strings"
	"unicode/utf8"

	"mvdan.cc/sh/v3/syntax"
)

// param expands a parameter.
func (sh *shell) param(f *splitter, p *syntax.ParamExp, quoted bool) {
	if p.Param == nil || p.Flags != nil || p.Excl || p.Width || p.IsSet || p.NestedParam != nil || p.Index != nil ||
		p.Modifiers != nil || p.Names != 0 {
		sh.refuse(Unsupported, "an expansion of a variable that this package does not know")
	}
	name := p.Param.Value
	all := name == "@" || name == "*"
	value, set := sh.get(name)
	switch {
	case p.Length:
		if !set {
			sh.unset(name)
		}
		n := utf8.RuneCountInString(value)
		if all {
			n = len(sh.params)
		}
		sh.put(f, strconv.Itoa(n), quoted)
	case p.Exp != nil:
		sh.expansion(f, p, value, set, quoted)
	case p.Slice != nil || p.Repl != nil:
		if all {
			sh.refuse(Unsupported, "cutting ${%s}", name)
		}
		if !set {
			sh.unset(name)
		}
		if p.Slice != nil {
			value = sh.slice(value, p.Slice)
		} else {
			value = sh.replaced(value, p.Repl)
		}
		sh.put(f, value, quoted)
	case all:
		sh.all(f, name, quoted)
	case !set:
		sh.unset(name)
		if quoted {
			f.begin()
		}
	default:
		sh.put(f, value, quoted)
	}
}

// all expands $@ and $*.
func (sh *shell) all(f *splitter, name string, quoted bool) {
	if name == "*" && quoted || f.noSplit {
		sep := sh.separator()
		if name == "@" {
			sep = " "
		}
		for i, p := range sh.params {
			if i > 0 {
				f.add(sep, true)
			}
			f.add(p, quoted)
		}
		if quoted {
			f.begin()
		}
		return
	}
	for i, p := range sh.params {
		if i > 0 {
			f.end()
		}
		if quoted {
			f.add(p, true)
		} else {
			f.split(p)
		}
	}
}

// unset ends the shell where -u asks for that.
func (sh *shell) unset(name string) {
	if sh.modes['u'] {
		sh.decides(name)
	}
	if sh.modes['u'] && name != "@" && name != "*" && name != "!" {
		sh.complain("%s: parameter not set", name)
		panic(exit{2})
	}
}

// expansion expands ${name:-word} and its like.
func (sh *shell) expansion(f *splitter, p *syntax.ParamExp, value string, set, quoted bool) {
	name, e := p.Param.Value, p.Exp
	empty := !set
	switch e.Op {
	case syntax.DefaultUnsetOrNull, syntax.AssignUnsetOrNull, syntax.ErrorUnsetOrNull, syntax.AlternateUnsetOrNull:
		empty = value == ""
	}
	self := func() {
		if name == "@" || name == "*" {
			sh.all(f, name, quoted)
			return
		}
		sh.put(f, value, quoted)
	}
	word := func() {
		if e.Word == nil {
			if quoted {
				f.begin()
			}
			return
		}
		if !quoted {
			sh.words(f, e.Word)
			return
		}
		sh.quotedWord(f, e.Word)
	}
	switch e.Op {
	case syntax.DefaultUnset, syntax.DefaultUnsetOrNull:
		if empty {
			word()
			return
		}
		self()
	case syntax.AlternateUnset, syntax.AlternateUnsetOrNull:
		if !empty {
			word()
		} else if quoted {
			f.begin()
		}
	case syntax.AssignUnset, syntax.AssignUnsetOrNull:
		if empty {
			if !syntax.ValidName(name) {
				sh.complain("%s: bad variable name", name)
				panic(exit{2})
			}
			value = sh.making(name, func() string { return sh.text(e.Word) })
			sh.assign(name, value)
		}
		self()
	case syntax.ErrorUnset, syntax.ErrorUnsetOrNull:
		sh.decides(name)
		if empty {
			text := "parameter not set"
			if e.Word != nil {
				text = sh.text(e.Word)
			}
			sh.complain("%s: %s", name, text)
			panic(exit{2})
		}
		self()
	case syntax.RemSmallPrefix, syntax.RemLargePrefix, syntax.RemSmallSuffix, syntax.RemLargeSuffix:
		if name == "@" || name == "*" {
			sh.refuse(Unsupported, "cutting ${%s}", name)
		}
		if !set {
			sh.unset(name)
		}
		sh.put(f, sh.trim(value, sh.pattern(e.Word), e.Op), quoted)
	default:
		sh.refuse(Unsupported, "the expansion ${%s%s…}", name, e.Op)
	}
}

// words adds the word of an expansion that is not quoted: what it expands to is
// split, and what it says itself is split at blanks.
func (sh *shell) words(f *splitter, w *syntax.Word) {
	for _, part := range sh.tilde(f, w.Parts, false) {
		if lit, is := part.(*syntax.Lit); is {
			f.split(unescape(lit.Value, "\"'$`\\*?[]{}() ~"))
			continue
		}
		sh.part(f, part, false)
	}
}

// quotedWord adds the word of an expansion in double quotes, where a single quote is
// a sign like others.
func (sh *shell) quotedWord(f *splitter, w *syntax.Word) {
	f.begin()
	for _, part := range w.Parts {
		switch p := part.(type) {
		case *syntax.Lit:
			f.add(unescape(p.Value, "$`\"\\}"), true)
		case *syntax.SglQuoted:
			f.add("'"+p.Value+"'", true)
		default:
			sh.part(f, part, true)
		}
	}
}

// trim cuts what a pattern matches off one end of a value.
func (sh *shell) trim(value, pattern string, op syntax.ParExpOperator) string {
	ends := make([]int, 0, len(value)+1)
	for i := range value {
		ends = append(ends, i)
	}
	ends = append(ends, len(value))
	if op == syntax.RemLargePrefix || op == syntax.RemSmallSuffix {
		for i, j := 0, len(ends)-1; i < j; i, j = i+1, j-1 {
			ends[i], ends[j] = ends[j], ends[i]
		}
	}
	for _, at := range ends {
		switch op {
		case syntax.RemSmallPrefix, syntax.RemLargePrefix:
			if sh.match(pattern, value[:at]) {
				return value[at:]
			}
		default:
			if sh.match(pattern, value[at:]) {
				return value[:at]
			}
		}
	}
	return value
}

// slice cuts ${name:offset:length} out of a value, in bytes. An offset below 0 counts
// from the end, a length below 0 too; one that still is below 0 then is none.
func (sh *shell) slice(value string, s *syntax.Slice) string {
	size := int64(len(value))
	length := size
	at := int64(0)
	if s.Offset != nil {
		at = sh.number(s.Offset)
	}
	if s.Length != nil {
		length = sh.number(s.Length)
	}
	if at < 0 {
		at += size
	}
	if at < 0 || at >= size {
		return ""
	}
	if length < 0 {
		length += size - at
	}
	if length < 0 || length > size-at {
		length = size - at
	}
	return value[at : at+length]
}

// replaced puts a text in place of the first or each longest part of a value that a
// pattern matches. Ash knows no # and % that bind the pattern to an end.
func (sh *shell) replaced(value string, r *syntax.Replace) string {
	pattern, with := sh.pattern(r.Orig), sh.joined(r.With, false).text.String()
	if pattern == "" {
		return value
	}
	var b strings.Builder
	for at := 0; at < len(value); {
		sh.step()
		end := len(value)
		for end > at && !sh.match(pattern, value[at:end]) {
			end--
		}
		if end == at {
			b.WriteByte(value[at])
			at++
			continue
		}
		b.WriteString(with)
		sh.bound(b.Len(), "a word")
		if at = end; !r.All {
			b.WriteString(value[at:])
			break
		}
	}
	return b.String()
}

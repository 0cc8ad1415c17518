package script

import (
	"bytes"
	"errors"
	"strconv"
	"strings"

	"mvdan.cc/sh/v3/syntax"
)

// parse reads a script as ash does. Ash takes some of bash's words too, which the
// parser has in bash's language alone: a script that POSIX' rules do not fit, or
// that has a $ before quotes or [[, is read by bash's, and what ash does not have is refused.
func parse(script []byte) *syntax.File {
	file, err := syntax.NewParser(syntax.Variant(syntax.LangPOSIX)).Parse(bytes.NewReader(script), "")
	if err == nil && !dollarQuotes(file) && !bytes.Contains(script, []byte("[[ ")) {
		return file
	}
	wider, wrong := syntax.NewParser(syntax.Variant(syntax.LangBash)).Parse(bytes.NewReader(script), "")
	if wrong == nil && ashHas(wider) {
		return wider
	}
	if err == nil {
		return file
	}
	at, text := syntax.Pos{}, err.Error()
	var parse syntax.ParseError
	var lang syntax.LangError
	if errors.As(err, &parse) {
		at = parse.Pos
	} else if errors.As(err, &lang) {
		at = lang.Pos
	}
	text = strings.TrimPrefix(text, at.String()+": ")
	panic(&Refusal{Kind: Syntax, Line: int(at.Line()), Reason: text})
}

// dollarQuotes reports whether a script by POSIX' rules has $'…'.
func dollarQuotes(file *syntax.File) bool {
	found := false
	look := func(parts []syntax.WordPart) {
		for i, part := range parts {
			lit, is := part.(*syntax.Lit)
			if is && i+1 < len(parts) && strings.HasSuffix(lit.Value, "$") && !strings.HasSuffix(lit.Value, `\$`) {
				found = found || isSingle(parts[i+1])
			}
		}
	}
	syntax.Walk(file, func(n syntax.Node) bool {
		if w, is := n.(*syntax.Word); is {
			look(w.Parts)
		}
		return true
	})
	return found
}

// ashHas reports whether ash has all that a script of bash's uses.
func ashHas(file *syntax.File) bool {
	has := true
	syntax.Walk(file, func(n syntax.Node) bool {
		switch n := n.(type) {
		case *syntax.ArrayExpr, *syntax.ExtGlob, *syntax.ArithmCmd, *syntax.LetClause, *syntax.CoprocClause, *syntax.ParenTest,
			*syntax.TestDecl, *syntax.TimeClause:
			has = false
		case *syntax.Assign:
			has = has && !n.Append && n.Index == nil
		case *syntax.Redirect:
			has = has && n.Op != syntax.WordHdoc && n.Op != syntax.AppAll
		case *syntax.BinaryCmd:
			has = has && n.Op != syntax.PipeAll
		case *syntax.ForClause:
			_, words := n.Loop.(*syntax.WordIter)
			has = has && words && !n.Select
		case *syntax.CaseClause:
			for _, item := range n.Items {
				has = has && item.Op == syntax.Break
			}
		}
		return has
	})
	return has
}

// dollarQuoted reads the text of $'…'. What C does not have keeps its backslash.
func (sh *shell) dollarQuoted(s string) string {
	var b strings.Builder
	for i := 0; i < len(s); i++ {
		if s[i] != '\\' || i+1 == len(s) {
			b.WriteByte(s[i])
			continue
		}
		i++
		if at := strings.IndexByte("nrbtfav\\", s[i]); at >= 0 {
			b.WriteByte("\n\r\b\t\f\a\v\\"[at])
			continue
		}
		digits, most, base, from := "01234567", 3, 8, i
		switch {
		case s[i] == '\'' || s[i] == '"':
			b.WriteByte(s[i])
			continue
		case s[i] == 'x':
			digits, most, base, from = "0123456789abcdefABCDEF", 2, 16, i+1
		case s[i] < '0' || s[i] > '7':
			b.WriteString(s[i-1 : i+1])
			continue
		}
		n := from
		for n < len(s) && n < from+most && strings.IndexByte(digits, s[n]) >= 0 {
			n++
		}
		value, err := strconv.ParseUint(s[from:n], base, 16)
		if err != nil || value == 0 || value > 0xff {
			sh.refuse(Unsupported, "the sign \\%s in $'…'", s[i:n])
		}
		b.WriteByte(byte(value))
		i = n - 1
	}
	return b.String()
}

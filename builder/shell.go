package builder

import (
	"slices"
	"strings"
)

// token is a piece of a shell script.
type token struct {
	kind  tokenKind
	text  string // of a word, quotes removed; of anything else, the operator
	plain bool   // a word that means what it says: nothing in it is expanded
	bare  bool   // a word without quotes, which may be a reserved one
	at    int    // where it begins in the script
}

type tokenKind int

const (
	aWord     tokenKind = iota
	aSign               // ; & && || | ( ) ;; or a line's end
	aRedirect           // with its file descriptor before it
)

// signs and redirects are the shell's operators, longer ones first.
var (
	signs     = []string{"&&", "||", ";;", ";", "&", "|", "(", ")"}
	redirects = []string{"<<-", "<<", "&>>", "&>", ">>", ">&", ">|", "<&", "<>", "<", ">"}
)

// lexer cuts a script into tokens. Here-documents are passed over: what is in
// them is text.
type lexer struct {
	in     string
	at     int
	out    []token
	bodies []hereDoc // whose text begins behind the next line's end
}

type hereDoc struct {
	end  string
	tabs bool // <<-: the end may stand behind tabs
}

// lex returns the tokens of a script, or reports that it cannot tell them.
func lex(script string) ([]token, bool) {
	l := &lexer{in: script}
	for l.at < len(l.in) {
		if !l.next() {
			return nil, false
		}
	}
	return l.out, true
}

func (l *lexer) next() bool {
	rest := l.in[l.at:]
	switch c := rest[0]; {
	case c == ' ' || c == '\t' || c == '\r':
		l.at++
		return true
	case strings.HasPrefix(rest, "\\\n"):
		l.at += 2
		return true
	case c == '#':
		l.at += len(rest)
		if n := strings.IndexByte(rest, '\n'); n >= 0 {
			l.at += n - len(rest)
		}
		return true
	case c == '\n':
		l.put(token{kind: aSign, text: "\n"}, 1)
		l.skipBodies()
		return true
	}
	for _, op := range redirects {
		if strings.HasPrefix(rest, op) {
			l.put(token{kind: aRedirect, text: op}, len(op))
			return true
		}
	}
	for _, op := range signs {
		if strings.HasPrefix(rest, op) {
			l.put(token{kind: aSign, text: op}, len(op))
			return true
		}
	}
	return l.word()
}

func (l *lexer) put(t token, n int) {
	t.at = l.at
	l.at += n
	l.out = append(l.out, t)
}

// skipBodies passes over the here-documents that begin here.
func (l *lexer) skipBodies() {
	for _, doc := range l.bodies {
		for l.at < len(l.in) {
			line, _, _ := strings.Cut(l.in[l.at:], "\n")
			l.at = min(len(l.in), l.at+len(line)+1)
			if doc.tabs {
				line = strings.TrimLeft(line, "\t")
			}
			if line == doc.end {
				break
			}
		}
	}
	l.bodies = nil
}

// word reads a word. Digits right before < or > are a file descriptor.
func (l *lexer) word() bool {
	var text strings.Builder
	begin, plain, bare := l.at, true, true
	for l.at < len(l.in) && !strings.ContainsRune(" \t\r\n;&|()<>", rune(l.in[l.at])) {
		switch c := l.in[l.at]; c {
		case '\'':
			inside, _, closed := strings.Cut(l.in[l.at+1:], "'")
			if !closed {
				return false
			}
			text.WriteString(inside)
			l.at += len(inside) + 2
			bare = false
			continue
		case '"':
			expands, closed := l.quoted(&text)
			if !closed {
				return false
			}
			plain, bare = plain && !expands, false
			continue
		case '\\':
			if l.at+1 < len(l.in) {
				l.at++
			}
			bare = false
			if l.in[l.at] == '\n' {
				l.at++
				continue
			}
		case '$', '`':
			if !l.expansion() {
				return false
			}
			plain = false
			continue
		case '*', '?', '[', '~':
			plain = false
		}
		text.WriteByte(l.in[l.at])
		l.at++
	}
	t := token{kind: aWord, text: text.String(), plain: plain, bare: bare, at: begin}
	if n := len(l.out); n > 0 && l.out[n-1].kind == aRedirect && strings.HasPrefix(l.out[n-1].text, "<<") {
		l.bodies = append(l.bodies, hereDoc{t.text, l.out[n-1].text == "<<-"})
	}
	l.out = append(l.out, t)
	return true
}

// quoted reads what is in double quotes, and reports whether anything in it is
// expanded.
func (l *lexer) quoted(text *strings.Builder) (expands, closed bool) {
	for l.at++; l.at < len(l.in); {
		switch c := l.in[l.at]; {
		case c == '"':
			l.at++
			return expands, true
		case c == '$' || c == '`':
			if expands = true; !l.expansion() {
				return expands, false
			}
		case c == '\\' && l.at+1 < len(l.in):
			text.WriteByte(l.in[l.at+1])
			l.at += 2
		default:
			text.WriteByte(c)
			l.at++
		}
	}
	return expands, false
}

// expansion passes over a variable or a command substitution.
func (l *lexer) expansion() bool {
	rest := l.in[l.at:]
	end := map[string]string{"$(": ")", "${": "}"}[rest[:min(2, len(rest))]]
	switch {
	case rest[0] == '`':
		n := strings.IndexByte(rest[1:], '`')
		l.at += n + 2
		return n >= 0
	case end == "":
		l.at++
		return true
	}
	depth := 0
	for l.at++; l.at < len(l.in); l.at++ {
		switch l.in[l.at : l.at+1] {
		case rest[1:2]:
			depth++
		case end:
			if depth--; depth == 0 {
				l.at++
				return true
			}
		}
	}
	return false
}

// command is a simple command.
type command struct {
	words    []string
	plain    bool   // its words mean what they say, and it writes to no file
	silenced bool   // its errors go to /dev/null
	operator string // "", && or ||: what stands before it
	text     string // as the script has it
}

// statement is a list of commands with && and || between them, or something
// that is not followed: an if, a loop, a function, a pipe.
type statement struct {
	commands []command
	opaque   bool
	defines  string   // the function it defines
	words    []string // of what is opaque
	text     string
}

// statements parses a script, or reports that it cannot.
func statements(script string) ([]statement, bool) {
	tokens, ok := lex(script)
	if !ok {
		return nil, false
	}
	var list []statement
	for i := 0; i < len(tokens); {
		if t := tokens[i]; t.kind == aSign && (t.text == "\n" || t.text == ";") {
			i++
			continue
		}
		n, compound, ok := span(tokens[i:])
		if !ok {
			return nil, false
		}
		list = append(list, newStatement(script, tokens[i:i+n], compound))
		i += n
	}
	return list, true
}

// closers are the reserved words that end what others begin.
var closers = map[string]string{"if": "fi", "for": "done", "while": "done", "until": "done", "case": "esac", "{": "}"}

// span returns how many tokens a statement has, and whether it is one that
// is not followed.
func span(tokens []token) (n int, compound, ok bool) {
	var open []string // what ends what was begun
	top := func() string {
		if len(open) == 0 {
			return ""
		}
		return open[len(open)-1]
	}
	first := true // of a command
	for n = 0; n < len(tokens); n++ {
		t := tokens[n]
		if t.kind == aSign {
			first = true
			switch {
			case t.text == "(":
				compound = true
				open = append(open, ")")
			case t.text == ")" && top() == ")":
				open = open[:len(open)-1]
				if tokens[n-1].text == "(" { // NAME (): a body follows
					for n+1 < len(tokens) && tokens[n+1].text == "\n" {
						n++
					}
				}
			case t.text == ")" && top() == "esac", t.text == ";;" && top() == "esac":
			case t.text == ")" || t.text == ";;":
				return n, true, false
			case t.text == "|" || t.text == "&":
				compound = true
				if t.text == "&" && len(open) == 0 {
					return n + 1, true, true
				}
			case t.text == "\n" && n > 0 && tokens[n-1].kind == aSign && slices.Contains([]string{"&&", "||", "|"}, tokens[n-1].text):
			case (t.text == "\n" || t.text == ";") && len(open) == 0:
				return n, compound, true
			}
			continue
		}
		if t.kind != aWord || !t.bare || !first {
			first = false
			continue
		}
		first = false
		switch {
		case closers[t.text] != "":
			compound = true
			open = append(open, closers[t.text])
		case len(open) > 0 && t.text == top():
			open = open[:len(open)-1]
		case t.text == "!":
			compound, first = true, true
		case slices.Contains([]string{"then", "do", "else", "elif"}, t.text):
			first = true
		case t.text == "fi" || t.text == "done" || t.text == "esac" || t.text == "}":
			return n, true, false
		}
	}
	return n, compound, len(open) == 0
}

// newStatement makes a statement of its tokens.
func newStatement(script string, tokens []token, compound bool) statement {
	from, to := tokens[0].at, len(script)
	if last := tokens[len(tokens)-1]; last.kind == aSign {
		to = last.at
	} else if i := strings.IndexByte(script[last.at:], '\n'); i >= 0 {
		to = last.at + i
	}
	line, _, _ := strings.Cut(strings.ReplaceAll(script[from:to], "\\\n", " "), "\n")
	s := statement{opaque: compound, text: strings.TrimSpace(line)}
	if compound {
		for _, t := range tokens {
			s.words = append(s.words, t.text)
		}
		if len(tokens) > 2 && tokens[0].kind == aWord && tokens[1].text == "(" && tokens[2].text == ")" {
			s.defines = tokens[0].text
		}
		return s
	}
	operator := ""
	for len(tokens) > 0 {
		n := slices.IndexFunc(tokens, func(t token) bool { return t.kind == aSign && t.text != "\n" })
		if n < 0 {
			n = len(tokens)
		}
		c := newCommand(tokens[:n])
		c.operator, c.text = operator, s.text
		s.commands = append(s.commands, c)
		if n == len(tokens) {
			break
		}
		operator, tokens = tokens[n].text, tokens[n+1:]
	}
	return s
}

// newCommand makes a command of its words and redirections.
func newCommand(tokens []token) command {
	c := command{plain: true}
	quiet := false // it says nothing, which its errors may follow
	for i := 0; i < len(tokens); i++ {
		t := tokens[i]
		switch {
		case t.kind == aSign: // a line's end behind an operator
		case t.kind == aWord && i+1 < len(tokens) && tokens[i+1].kind == aRedirect && tokens[i+1].at == t.at+len(t.text) && t.bare &&
			digits(t.text):
			// the redirection's file descriptor
		case t.kind == aWord:
			c.words = append(c.words, t.text)
			c.plain = c.plain && t.plain
		case i+1 == len(tokens) || tokens[i+1].kind != aWord:
			c.plain = false
		default:
			to := tokens[i+1].text
			fd := ""
			if i > 0 && tokens[i-1].kind == aWord && tokens[i-1].at+len(tokens[i-1].text) == t.at && digits(tokens[i-1].text) {
				fd = tokens[i-1].text
			}
			null := to == "/dev/null" && (strings.HasPrefix(t.text, ">") || strings.HasPrefix(t.text, "&>"))
			quiet = quiet || null && fd != "2"
			c.silenced = c.silenced || null && (fd == "2" || strings.HasPrefix(t.text, "&>")) || quiet && fd == "2" && t.text == ">&" && to == "1"
			c.plain = c.plain && (null || t.text == ">&" && digits(to) || strings.HasPrefix(t.text, "<<"))
			i++
		}
	}
	if len(c.words) > 0 && strings.Contains(c.words[0], "=") {
		c.plain = false // an assignment
	}
	return c
}

func digits(s string) bool {
	return s != "" && strings.Trim(s, "0123456789") == ""
}

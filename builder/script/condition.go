package script

import (
	"slices"
	"strconv"
	"strings"

	"mvdan.cc/sh/v3/syntax"
)

// condition is test or [ at work: its arguments, and how many of them are read.
type condition struct {
	*call
	args   []string
	at     int
	broken bool // the arguments make no sense
}

// test evaluates conditions by POSIX' rules for one to four arguments, and as busybox
// does for more: -o binds less than -a, and ! more than both.
func (c *call) test() int {
	args := c.args[1:]
	switch closing := "]"; {
	case strings.HasSuffix(c.args[0], "[["):
		// Ash has && and || for -a and -o in there, which the parser does not know.
		if closing = "]]"; len(args) == 0 || args[len(args)-1] != closing || slices.ContainsFunc(args, func(arg string) bool {
			return arg == "=~" || arg == "-a" || arg == "-o"
		}) {
			c.refuse(Unsupported, "[[ with other operators than those of [")
		}
		args = args[:len(args)-1]
	case strings.HasSuffix(c.args[0], "["):
		if len(args) == 0 || args[len(args)-1] != closing {
			c.fail("missing ]")
			return 2
		}
		args = args[:len(args)-1]
	}
	t := &condition{call: c, args: args}
	value := t.few(args)
	if t.broken {
		return 2
	}
	return 1 - btoi(value)
}

// few decides by the number of arguments.
func (t *condition) few(args []string) bool {
	switch n := len(args); {
	case n == 0:
		return false
	case n == 1:
		return args[0] != ""
	case n == 2 && args[0] == "!":
		return args[1] == ""
	case n == 3 && isBinary(args[1]):
		return t.binary(args[0], args[1], args[2])
	case n == 3 && args[0] == "!":
		return !t.few(args[1:])
	case n == 3 && args[0] == "(" && args[2] == ")":
		return args[1] != ""
	case n == 4 && args[0] == "!":
		return !t.few(args[1:])
	case n == 4 && args[0] == "(" && args[3] == ")":
		return t.few(args[1:3])
	}
	t.args, t.at = args, 0
	value := t.or()
	if t.at < len(t.args) && !t.broken {
		t.wrong("%s: unknown operand", t.args[t.at])
	}
	return value
}

func (t *condition) wrong(format string, args ...any) bool {
	if !t.broken {
		t.fail(format, args...)
	}
	t.broken = true
	return false
}

func (t *condition) next(word string) bool {
	if t.at < len(t.args) && t.args[t.at] == word {
		t.at++
		return true
	}
	return false
}

func (t *condition) or() bool {
	value := t.and()
	for !t.broken && t.next("-o") {
		right := t.and()
		value = value || right
	}
	return value
}

func (t *condition) and() bool {
	value := t.not()
	for !t.broken && t.next("-a") {
		right := t.not()
		value = value && right
	}
	return value
}

func (t *condition) not() bool {
	defer t.nest()()
	if t.at+1 < len(t.args) && t.args[t.at] == "!" {
		t.at++
		return !t.not()
	}
	return t.primary()
}

func (t *condition) primary() bool {
	if t.at >= len(t.args) {
		return t.wrong("argument expected")
	}
	left := len(t.args) - t.at
	word := t.args[t.at]
	if left >= 3 && isBinary(t.args[t.at+1]) && t.args[t.at+1] != "-a" && t.args[t.at+1] != "-o" {
		t.at += 3
		return t.binary(word, t.args[t.at-2], t.args[t.at-1])
	}
	if word == "(" && left >= 2 {
		t.at++
		value := t.or()
		if !t.next(")") {
			return t.wrong("closing paren expected")
		}
		return value
	}
	if left >= 2 && isUnary(word) {
		t.at += 2
		return t.unary(word, t.args[t.at-1])
	}
	t.at++
	return word != ""
}

func isBinary(op string) bool {
	switch op {
	case "=", "==", "!=", "<", ">", "-eq", "-ne", "-lt", "-le", "-gt", "-ge", "-nt", "-ot", "-ef", "-a", "-o":
		return true
	}
	return false
}

func isUnary(op string) bool {
	return len(op) == 2 && op[0] == '-' && strings.IndexByte("bcdefgGhkLnOprsStuwxz", op[1]) >= 0
}

func (t *condition) binary(a, op, b string) bool {
	switch op {
	case "=", "==":
		return a == b
	case "!=":
		return a != b
	case "<":
		return a < b
	case ">":
		return a > b
	case "-a":
		return a != "" && b != ""
	case "-o":
		return a != "" || b != ""
	case "-nt", "-ot", "-ef":
		return t.compareFiles(a, op, b)
	}
	x, okay := t.integer(a)
	y, too := t.integer(b)
	if !okay || !too {
		return false
	}
	switch op {
	case "-eq":
		return x == y
	case "-ne":
		return x != y
	case "-lt":
		return x < y
	case "-le":
		return x <= y
	case "-gt":
		return x > y
	}
	return x >= y
}

func (t *condition) integer(s string) (int64, bool) {
	n, err := strconv.ParseInt(strings.TrimSpace(s), 10, 64)
	if err != nil {
		return 0, t.wrong("%s: bad number", s)
	}
	return n, true
}

func (t *condition) compareFiles(a, op, b string) bool {
	x, err := t.view.resolve(t.dir, a, true)
	y, other := t.view.resolve(t.dir, b, true)
	there, too := err == nil && x.node != nil, other == nil && y.node != nil
	switch {
	case !there || !too:
		return false
	case op == "-ef":
		return x.name == y.name || x.node == y.node
	case op == "-nt":
		return x.node.ModTime.After(y.node.ModTime)
	}
	return x.node.ModTime.Before(y.node.ModTime)
}

func (t *condition) unary(op, arg string) bool {
	switch op {
	case "-n":
		return arg != ""
	case "-z":
		return arg == ""
	case "-t":
		return false // no terminal is there
	}
	at, err := t.view.resolve(t.dir, arg, op != "-L" && op != "-h")
	if err != nil || at.node == nil && !at.null {
		return false
	}
	if at.null {
		return strings.Contains("-e -c -r -w -O -G", op)
	}
	n := at.node
	switch op {
	case "-e", "-r", "-w":
		return true
	case "-f":
		return n.isFile()
	case "-d":
		return n.isDir()
	case "-L", "-h":
		return n.isLink()
	case "-s":
		return n.isDir() || n.isFile() && t.view.size(n) > 0
	case "-x":
		return n.isDir() || n.Mode&0o111 != 0
	case "-u":
		return n.Mode&setUID != 0
	case "-g":
		return n.Mode&setGID != 0
	case "-k":
		return n.Mode&0o1000 != 0
	case "-O":
		return n.Uid == 0
	case "-G":
		return n.Gid == 0
	}
	return isSpecialFile(op, n.Typeflag)
}

// isSpecialFile is for the kinds of files that no install script makes.
func isSpecialFile(op string, kind byte) bool {
	return op == "-b" && kind == '4' || op == "-c" && kind == '3' || op == "-p" && kind == '6'
}

// testArguments adds the words of a [[ as those of a [, which it is in ash but for
// && and ||.
func (sh *shell) testArguments(args []string, x syntax.TestExpr) []string {
	defer sh.nest()()
	switch x := x.(type) {
	case *syntax.Word:
		return append(args, sh.fields([]*syntax.Word{x})...)
	case *syntax.UnaryTest:
		return sh.testArguments(append(args, x.Op.String()), x.X)
	case *syntax.BinaryTest:
		op := x.Op.String()
		switch x.Op {
		case syntax.AndTest:
			op = "-a"
		case syntax.OrTest:
			op = "-o"
		case syntax.TsReMatch, syntax.TsBefore, syntax.TsAfter: // of which < and > are redirections in ash
			sh.refuse(Unsupported, "[[ with other operators than those of [")
		}
		return sh.testArguments(append(sh.testArguments(args, x.X), op), x.Y)
	}
	sh.refuse(Unsupported, "[[ with other operators than those of [")
	return nil
}

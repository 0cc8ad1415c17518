package script

import (
	"strconv"
	"strings"

	"mvdan.cc/sh/v3/syntax"
)

// arithmetic returns what $((…)) is.
func (sh *shell) arithmetic(x syntax.ArithmExpr) string {
	if x == nil {
		return "0"
	}
	return strconv.FormatInt(sh.number(x), 10)
}

// wrong ends the shell as ash does where arithmetic has no result.
func (sh *shell) wrong(text string) {
	sh.complain("%s", text)
	panic(exit{2})
}

// number calculates with 64 bits, which wrap around.
func (sh *shell) number(x syntax.ArithmExpr) int64 {
	defer sh.nest()()
	switch x := x.(type) {
	case *syntax.Word:
		return sh.operand(x)
	case *syntax.ParenArithm:
		return sh.number(x.X)
	case *syntax.UnaryArithm:
		return sh.unary(x)
	case *syntax.BinaryArithm:
		return sh.calculate(x)
	}
	sh.refuse(Unsupported, "arithmetic that this package does not know")
	return 0
}

// operand is a number, or a variable that holds one.
func (sh *shell) operand(w *syntax.Word) int64 {
	text := strings.TrimSpace(sh.text(w))
	if syntax.ValidName(text) {
		value, set := sh.get(text)
		if !set {
			sh.unset(text)
		}
		text = strings.TrimSpace(value)
	}
	if text == "" {
		return 0
	}
	n, err := strconv.ParseInt(text, 0, 64)
	if err != nil || strings.ContainsAny(text, "_oObB") && !strings.HasPrefix(text, "0x") {
		sh.refuse(Unsupported, "%q as a number", text)
	}
	return n
}

func (sh *shell) unary(x *syntax.UnaryArithm) int64 {
	if x.Op == syntax.Inc || x.Op == syntax.Dec {
		name := sh.lvalue(x.X)
		old := sh.number(x.X)
		now := old + 1
		if x.Op == syntax.Dec {
			now = old - 1
		}
		sh.assign(name, strconv.FormatInt(now, 10))
		if x.Post {
			return old
		}
		return now
	}
	n := sh.number(x.X)
	switch x.Op {
	case syntax.Plus:
		return n
	case syntax.Minus:
		return -n
	case syntax.Not:
		return truth(n == 0)
	case syntax.BitNegation:
		return ^n
	}
	sh.refuse(Unsupported, "the operator %s", x.Op)
	return 0
}

// lvalue returns the name of the variable that arithmetic assigns to.
func (sh *shell) lvalue(x syntax.ArithmExpr) string {
	w, is := x.(*syntax.Word)
	if !is || !syntax.ValidName(w.Lit()) {
		sh.refuse(Unsupported, "assigning to what is no variable")
	}
	return w.Lit()
}

func truth(b bool) int64 {
	if b {
		return 1
	}
	return 0
}

// assigning are the operators that assign, with what they do before.
var assigning = map[syntax.BinAritOperator]syntax.BinAritOperator{
	syntax.AddAssgn: syntax.Add, syntax.SubAssgn: syntax.Sub, syntax.MulAssgn: syntax.Mul, syntax.QuoAssgn: syntax.Quo,
	syntax.RemAssgn: syntax.Rem, syntax.AndAssgn: syntax.And, syntax.OrAssgn: syntax.Or, syntax.XorAssgn: syntax.Xor,
	syntax.ShlAssgn: syntax.Shl, syntax.ShrAssgn: syntax.Shr,
}

func (sh *shell) calculate(x *syntax.BinaryArithm) int64 {
	switch op := assigning[x.Op]; {
	case x.Op == syntax.Assgn:
		name := sh.lvalue(x.X)
		n := sh.number(x.Y)
		sh.assign(name, strconv.FormatInt(n, 10))
		return n
	case op != 0:
		name := sh.lvalue(x.X)
		n := sh.operate(op, sh.number(x.X), sh.number(x.Y))
		sh.assign(name, strconv.FormatInt(n, 10))
		return n
	}
	switch x.Op {
	case syntax.AndArit:
		return truth(sh.number(x.X) != 0 && sh.number(x.Y) != 0)
	case syntax.OrArit:
		return truth(sh.number(x.X) != 0 || sh.number(x.Y) != 0)
	case syntax.TernQuest:
		branches, is := x.Y.(*syntax.BinaryArithm)
		if !is {
			sh.refuse(Syntax, "a ? without its :")
		}
		if sh.number(x.X) != 0 {
			return sh.number(branches.X)
		}
		return sh.number(branches.Y)
	}
	return sh.operate(x.Op, sh.number(x.X), sh.number(x.Y))
}

func (sh *shell) operate(op syntax.BinAritOperator, a, b int64) int64 {
	switch op {
	case syntax.Add:
		return a + b
	case syntax.Sub:
		return a - b
	case syntax.Mul:
		return a * b
	case syntax.Quo, syntax.Rem:
		if b == 0 {
			sh.wrong("divide by zero")
		}
		if b == -1 { // the lowest number has no counterpart
			if op == syntax.Rem {
				return 0
			}
			return -a
		}
		if op == syntax.Quo {
			return a / b
		}
		return a % b
	case syntax.And:
		return a & b
	case syntax.Or:
		return a | b
	case syntax.Xor:
		return a ^ b
	case syntax.Shl:
		return a << (uint64(b) & 63)
	case syntax.Shr:
		return a >> (uint64(b) & 63)
	case syntax.Eql:
		return truth(a == b)
	case syntax.Neq:
		return truth(a != b)
	case syntax.Lss:
		return truth(a < b)
	case syntax.Leq:
		return truth(a <= b)
	case syntax.Gtr:
		return truth(a > b)
	case syntax.Geq:
		return truth(a >= b)
	case syntax.Comma:
		return b
	}
	sh.refuse(Unsupported, "the operator %s", op)
	return 0
}

package script

import (
	"strconv"
	"strings"

	"mvdan.cc/sh/v3/syntax"
)

// parsing is where getopts is in the words it reads: the number of the next one, and
// the sign in the one before it, below 0 for none.
type parsing struct{ next, sign int }

// startParsing is where getopts begins, and begins again when OPTIND is set.
func startParsing(value string) parsing {
	n, err := strconv.Atoi(value)
	if err != nil || n < 1 {
		n = 1
	}
	return parsing{n, -1}
}

// getopts reads the next option of the parameters, or of its further arguments, as
// ash does.
func (c *call) getopts() int {
	if len(c.args) < 3 {
		c.complain("getopts: Usage: getopts optstring var [arg...]")
		panic(exit{2})
	}
	letters, name, words := c.args[1], c.args[2], c.params
	if len(c.args) > 3 {
		words = c.args[3:]
	}
	if !syntax.ValidName(name) {
		c.complain("getopts: %s: bad variable name", name)
		panic(exit{2})
	}
	next, rest := c.parsing.next, ""
	if next > 1 && next-2 < len(words) && c.parsing.sign >= 0 && c.parsing.sign <= len(words[next-2]) {
		rest = words[next-2][c.parsing.sign:]
	}
	if rest == "" {
		over := next > len(words) || len(words[next-1]) < 2 || words[next-1][0] != '-'
		if !over {
			rest = words[next-1][1:]
			next++
			over = rest == "-"
		}
		if over {
			delete(c.vars, "OPTARG")
			c.assign(name, "?")
			c.parsed(next, -1)
			return 1
		}
	}
	letter := rest[:1]
	rest = rest[1:]
	at := optionAt(letters, letter[0])
	quiet := strings.HasPrefix(letters, ":")
	switch {
	case at < 0:
		c.wrongOption(quiet, letter, "Illegal option -%s")
		letter = "?"
	case strings.HasPrefix(letters[at+1:], ":"):
		if rest == "" && next > len(words) {
			c.wrongOption(quiet, letter, "No arg for -%s option")
			if letter = "?"; quiet {
				letter = ":"
			}
			break
		}
		if rest == "" {
			rest = words[next-1]
			next++
		}
		c.assign("OPTARG", rest)
		c.assign(name, letter)
		c.parsed(next, -1)
		return 0
	default:
		c.assign("OPTARG", "")
	}
	c.assign(name, letter)
	sign := -1
	if next > 1 && next-2 < len(words) {
		sign = len(words[next-2]) - len(rest)
	}
	c.parsed(next, sign)
	return 0
}

// optionAt returns where a letter is among those that getopts takes, or -1. A colon
// is none.
func optionAt(letters string, letter byte) int {
	for i := 0; i < len(letters); i++ {
		if letters[i] == letter && letter != ':' {
			return i
		}
	}
	return -1
}

// wrongOption says what is wrong with an option: to the script, or to who reads errors.
func (c *call) wrongOption(quiet bool, letter, text string) {
	if quiet {
		c.assign("OPTARG", letter)
		return
	}
	delete(c.vars, "OPTARG")
	c.complain(text, letter)
}

func (c *call) parsed(next, sign int) {
	c.assign("OPTIND", strconv.Itoa(next))
	c.shell.parsing = parsing{next, sign}
}

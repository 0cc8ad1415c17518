package script

import (
	"strconv"
	"strings"
)

// mode reads a mode such as 755 or u+rw,go=, given the mode that a file has.
func (c *call) mode(text string, old int64, dir bool) int64 {
	if n, err := strconv.ParseUint(text, 8, 32); err == nil {
		if n > 0o7777 {
			c.refuse(Unsupported, "the mode %s", text)
		}
		return int64(n)
	}
	mode := old & 0o7777
	for clause := range strings.SplitSeq(text, ",") {
		at := strings.IndexAny(clause, "+-=")
		if at < 0 || strings.Trim(clause[:at], "ugoa") != "" {
			c.refuse(Unsupported, "the mode %q", text)
		}
		mode = c.clause(mode, clause[:at], clause[at:], dir, text)
	}
	return mode
}

// clause applies one part of a symbolic mode: who, then + - = with permissions.
func (c *call) clause(mode int64, who, what string, dir bool, text string) int64 {
	mask := int64(0)
	for _, letter := range who {
		mask |= map[rune]int64{'u': 0o4700, 'g': 0o2070, 'o': 0o1007, 'a': 0o7777}[letter]
	}
	if who == "" {
		mask = 0o7777 &^ c.umask
	}
	for what != "" {
		op := what[0]
		end := 1
		for end < len(what) && strings.IndexByte("+-=", what[end]) < 0 {
			end++
		}
		bits := int64(0)
		for _, letter := range what[1:end] {
			switch letter {
			case 'r':
				bits |= 0o444
			case 'w':
				bits |= 0o222
			case 'x':
				bits |= 0o111
			case 'X':
				if dir || mode&0o111 != 0 {
					bits |= 0o111
				}
			case 's':
				bits |= 0o6000
			case 't':
				bits |= 0o1000
			case 'u', 'g', 'o':
				shift := map[rune]uint{'u': 6, 'g': 3, 'o': 0}[letter]
				bits |= mode >> shift & 7 * 0o111
			default:
				c.refuse(Unsupported, "the mode %q", text)
			}
		}
		if who != "" && !strings.ContainsAny(who, "oa") && bits&0o1000 != 0 {
			mask |= 0o1000
		}
		switch op {
		case '+':
			mode |= bits & mask
		case '-':
			mode &^= bits & mask
		default:
			if who == "" {
				mode = 0
			}
			mode = mode&^mask | bits&mask
		}
		what = what[end:]
	}
	return mode
}

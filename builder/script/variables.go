package script

import (
	"fmt"
	"slices"
	"strconv"
	"strings"
)

// random are variables that a shell makes up.
var random = map[string]Kind{"RANDOM": Secret, "SRANDOM": Secret, "EPOCHSECONDS": Machine, "EPOCHREALTIME": Machine, "SECONDS": Machine}

// get returns a variable or a special parameter, and reports whether it is set.
func (sh *shell) get(name string) (string, bool) {
	switch name {
	case "#":
		return strconv.Itoa(len(sh.params)), true
	case "?":
		return strconv.Itoa(sh.status), true
	case "0":
		return sh.name, true
	case "$":
		sh.refuse(Machine, "it uses its process number $$")
	case "!":
		return "", false
	case "-":
		var set []byte
		for flag := range sh.modes {
			set = append(set, flag)
		}
		slices.Sort(set)
		return string(set), true
	case "LINENO":
		return strconv.Itoa(sh.line), true
	case "@", "*":
		return strings.Join(sh.params, sh.separator()), len(sh.params) > 0
	}
	if n, err := strconv.Atoi(name); err == nil {
		if n > len(sh.params) || n < 1 {
			return "", false
		}
		return sh.params[n-1], true
	}
	sh.readVariable(name)
	v, there := sh.vars[name]
	if kind := random[name]; kind != "" && !there {
		sh.refuse(kind, "it uses $%s", name)
	}
	return v.value, v.set
}

// separator is what $* puts between the parameters.
func (sh *shell) separator() string {
	ifs, set := sh.get("IFS")
	switch {
	case !set:
		return " "
	case ifs == "":
		return ""
	}
	return string([]rune(ifs)[0])
}

// assign sets a variable.
func (sh *shell) assign(name, value string) {
	sh.bound(len(value), "the variable "+name)
	sh.effort(len(value))
	v := sh.vars[name]
	if v.fixed {
		sh.complain("%s: is read only", name)
		panic(exit{2})
	}
	v.value, v.set = value, true
	if sh.modes['a'] {
		v.exported = true
	}
	if len(sh.vars) >= maxFields {
		sh.refuse(Limit, "more than %d variables", maxFields)
	}
	if sh.vars[name] = v; name == "OPTIND" {
		sh.parsing = startParsing(value)
	}
	if kept := 0; len(sh.vars) > 64 {
		for _, v := range sh.vars {
			kept += len(v.value)
		}
		if sh.effort(16 * len(sh.vars)); kept > maxWritten {
			sh.refuse(Limit, "variables of more than %d MiB", maxWritten>>20)
		}
	}
}

// complain writes an error as ash does.
func (sh *shell) complain(format string, args ...any) {
	text := fmt.Sprintf("%s: line %d: %s\n", sh.name, sh.line, fmt.Sprintf(format, args...))
	if f := sh.files[2]; f != nil && f.out != nil {
		f.out.write([]byte(text))
	}
}

// hide makes a variable local to the function that runs.
func (sh *shell) hide(name string) {
	scope := sh.locals[len(sh.locals)-1]
	if _, hidden := scope[name]; !hidden {
		scope[name] = sh.vars[name]
	}
}

// restore gives variables back what they had.
func (sh *shell) restore(old map[string]variable) {
	for name, v := range old {
		if v == (variable{}) {
			delete(sh.vars, name)
		} else {
			sh.vars[name] = v
		}
		if name == "OPTIND" {
			sh.parsing = startParsing(v.value)
		}
	}
}

// where is a path in the tree as the shell would print it.
func where(name string) string { return "/" + strings.Trim(name, "/") }

package builder

import (
	"errors"
	"fmt"
	"slices"
	"strings"
)

// doubt is the first thing of a script that was not done as a shell would.
type doubt struct {
	text    string // what it is; "" for none
	account bool   // it is about an account
}

// status is what a command of a script ended with.
type status int

const (
	unknown status = iota
	succeeded
	failed
)

// follower follows one script as far as it is certain what a shell would do.
// What is not certain to run, and what the script tolerates the failure of, is
// a doubt at most: never an account, and never an error.
type follower struct {
	*accounts
	doubt     doubt
	certain   bool // the script surely comes to where it is now
	ended     bool
	strict    bool // set -e
	functions []string
}

// follow does what a script says as far as it is known: most make accounts
// and nothing else.
func (a *accounts) follow(script string) (doubt, error) {
	f := &follower{accounts: a, certain: true}
	if shebang, _, _ := strings.Cut(script, "\n"); strings.HasPrefix(shebang, "#!") {
		f.strict = strings.Contains(shebang, " -e")
	}
	list, ok := statements(script)
	if !ok {
		return doubt{text: "cannot tell the script's commands apart"}, nil
	}
	for _, s := range list {
		if s.defines != "" {
			f.functions = append(f.functions, s.defines)
		}
	}
	for _, s := range list {
		if err := f.statement(s); err != nil || f.ended {
			return f.doubt, err
		}
	}
	return f.doubt, nil
}

// note keeps the first doubt, but rather one about an account.
func (f *follower) note(account bool, format string, args ...any) {
	if f.doubt.text == "" || account && !f.doubt.account {
		f.doubt = doubt{fmt.Sprintf(format, args...), account}
	}
}

// enders are words that may end a script, or change what its other words mean.
var enders = []string{"exit", "exec", "return", "eval", ".", "source", "kill", "trap", "alias", "unalias", "set", "command", "builtin"}

// mayEnd reports whether what is not followed may end the script.
func (f *follower) mayEnd(words []string) bool {
	return f.strict || slices.ContainsFunc(words, func(w string) bool {
		return slices.Contains(enders, w) || slices.Contains(f.functions, w)
	})
}

// accountWords reports whether there is a command among words that makes an account.
func accountWords(words []string) bool {
	return slices.Contains(words, "adduser") || slices.Contains(words, "addgroup")
}

func (f *follower) statement(s statement) error {
	if s.opaque {
		f.note(accountWords(s.words), "does not know %q", s.text)
		if s.defines == "" && f.mayEnd(s.words) {
			f.certain = false
		}
		return nil
	}
	last := succeeded
	for i, c := range s.commands {
		runs := c.operator == "" || c.operator == "&&" && last == succeeded || c.operator == "||" && last == failed
		maybe := c.operator != "" && last == unknown
		switch {
		case maybe || runs && !f.certain:
			if last = unknown; !harmless(c) {
				f.note(accountWords(c.words), "cannot determine whether %q runs", c.text)
			}
			if f.mayEnd(c.words) {
				f.certain = false
			}
		case runs:
			tolerated := c.silenced || i+1 < len(s.commands) && s.commands[i+1].operator == "||"
			var err error
			if last, err = f.command(c, tolerated); err != nil || f.ended {
				return err
			}
			if last == failed && f.strict && i+1 == len(s.commands) {
				f.ended = true
			}
		}
	}
	if last == unknown && f.strict {
		f.certain = false
	}
	return nil
}

// harmless reports whether nothing is lost where a command is not followed.
func harmless(c command) bool {
	return c.plain && len(c.words) > 0 && slices.Contains([]string{"true", ":", "false", "echo", "printf", "cat", "exit", "getent",
		"id"}, c.words[0])
}

// command does a command that surely runs. tolerated says that the script
// passes over its failure.
func (f *follower) command(c command, tolerated bool) (status, error) {
	if !c.plain || len(c.words) == 0 {
		f.unknown(c)
		return unknown, nil
	}
	switch args := c.words[1:]; c.words[0] {
	case "exit":
		f.ended = true
		return unknown, nil
	case "set":
		f.set(args)
		return succeeded, nil
	case "true", ":", "echo", "printf":
		return succeeded, nil
	case "false":
		return failed, nil
	case "cat":
		if len(args) == 0 { // of a here-document
			return succeeded, nil
		}
	case "getent", "id":
		return f.lookup(c)
	case "addgroup", "adduser":
		err := f.account(c)
		var refused refusal
		switch {
		case err == nil:
			return succeeded, nil
		case errors.Is(err, errThere):
			return failed, nil
		case errors.As(err, &refused):
			// A membership may be for a package that is not there; an account
			// that is missing is missed later.
			if !refused.member || !tolerated {
				f.note(true, "%q would fail: %v", c.text, err)
			}
			return failed, nil
		case errors.Is(err, errUnread):
			break
		default:
			return failed, err
		}
	}
	f.unknown(c)
	return unknown, nil
}

// unknown notes a command that is not followed.
func (f *follower) unknown(c command) {
	f.note(accountWords(c.words), "does not know %q", c.text)
	if f.mayEnd(c.words) {
		f.certain = false
	}
}

func (f *follower) set(args []string) {
	for i, arg := range args {
		switch {
		case strings.HasPrefix(arg, "-") && strings.Contains(arg, "e"), arg == "errexit" && i > 0 && args[i-1] == "-o":
			f.strict = true
		case strings.HasPrefix(arg, "+") && strings.Contains(arg, "e"), arg == "errexit" && i > 0 && args[i-1] == "+o":
			f.strict = false
		}
	}
}

// lookup answers whether an account is there: getent passwd NAME, getent group
// NAME, id NAME, id -u NAME.
func (f *follower) lookup(c command) (status, error) {
	found := false
	switch args := c.words[1:]; {
	case c.words[0] == "getent" && len(args) == 2 && args[0] == "passwd":
		_, found = f.uid[args[1]]
	case c.words[0] == "getent" && len(args) == 2 && args[0] == "group":
		_, found = f.gid[args[1]]
	case c.words[0] == "id" && len(names(args)) == 1:
		_, found = f.uid[names(args)[0]]
	default:
		f.unknown(c)
		return unknown, nil
	}
	if !found {
		return failed, nil
	}
	return succeeded, nil
}

// names returns the arguments that are no options without a value.
func names(args []string) []string {
	return slices.DeleteFunc(slices.Clone(args), func(a string) bool { return strings.HasPrefix(a, "-") })
}

// errUnread is a command line of adduser or addgroup that is not understood.
var errUnread = errors.New("unsupported options")

// account does adduser or addgroup.
func (f *follower) account(c command) error {
	if c.words[0] == "adduser" {
		return f.userCommand(c.words[1:])
	}
	return f.groupCommand(c.words[1:])
}

// options reads busybox' short options: those in with take a value, those in
// without take none.
func options(args []string, with, without string) (values map[byte]string, rest []string, err error) {
	values = map[byte]string{}
	for i := 0; i < len(args); i++ {
		arg := args[i]
		if arg == "--" {
			return values, append(rest, args[i+1:]...), nil
		}
		if len(arg) < 2 || arg[0] != '-' {
			rest = append(rest, arg)
			continue
		}
		for j := 1; j < len(arg); j++ {
			if strings.IndexByte(without, arg[j]) >= 0 {
				values[arg[j]] = "yes"
				continue
			}
			if strings.IndexByte(with, arg[j]) < 0 {
				return nil, nil, errUnread
			}
			value := arg[j+1:]
			if value == "" {
				if i++; i >= len(args) {
					return nil, nil, errUnread
				}
				value = args[i]
			}
			values[arg[j]] = value
			break
		}
	}
	return values, rest, nil
}

func (a *accounts) groupCommand(args []string) error {
	o, rest, err := options(args, "g", "S")
	switch {
	case err != nil || len(rest) < 1 || len(rest) > 2:
		return errUnread
	case len(rest) == 2:
		return a.join(rest[0], rest[1])
	}
	return a.addGroup(rest[0], o['g'])
}

// nogroup is the group of system users that name none.
const nogroup = "nogroup"

func (a *accounts) userCommand(args []string) error {
	o, rest, err := options(args, "hgsGuk", "SDH")
	switch {
	case err != nil || len(rest) < 1 || len(rest) > 2:
		return errUnread
	case len(rest) == 2:
		return a.join(rest[0], rest[1])
	}
	u := user{name: rest[0], uid: o['u'], group: o['G'], gecos: o['g'], home: o['h'], shell: o['s']}
	if u.group == "" && o['S'] != "" {
		u.group = nogroup
	}
	if u.gecos == "" {
		u.gecos = u.name
	}
	if u.home == "" {
		u.home = "/home/" + u.name
	}
	if u.shell == "" {
		u.shell = "/sbin/nologin"
	}
	return a.addUser(u)
}

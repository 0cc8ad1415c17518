package openrc

import (
	"regexp"
	"strconv"
	"strings"

	"github.com/pikelet-os/pikelet/builder/script"
	"github.com/pikelet-os/pikelet/layers"
)

// commands are OpenRC's own programs that gendepends.sh and depend functions
// call, and the form of awk that sshd's has (openrc(8), and the manual pages
// of each in https://github.com/OpenRC/openrc/tree/0.56/man).
func commands(t *layers.Tree) map[string]script.Command {
	all := map[string]script.Command{
		"shell_var": shellVar, "lsb2rcconf": lsb, "fstabinfo": fstabinfo, "awk": awk,
		"rc-service": func(args []string, read func(string) ([]byte, bool)) (string, int, string) {
			return exists(t, args, read)
		},
	}
	// Messages go to a terminal or the log. Those that end something return
	// the status that they are told.
	for _, name := range strings.Fields("einfo einfon ewarn ewarnn ebegin veinfo vewarn vebegin eindent eoutdent veindent veoutdent esyslog") {
		all[name] = says(false, 0)
	}
	for _, name := range []string{"eerror", "eerrorn"} {
		all[name] = says(false, 1)
	}
	for _, name := range []string{"eend", "ewend", "veend", "vewend"} {
		all[name] = says(true, 0)
	}
	return all
}

// says is a command that prints a message.
func says(ends bool, status int) script.Command {
	return func(args []string, _ func(string) ([]byte, bool)) (string, int, string) {
		if !ends || len(args) == 0 {
			return "", status, ""
		}
		n, err := strconv.ParseUint(args[0], 10, 8)
		if err != nil {
			return "", 0, "the status " + strconv.Quote(args[0])
		}
		return "", int(n), ""
	}
}

// shellVar makes names of variables: what may not be in one becomes _.
func shellVar(args []string, _ func(string) ([]byte, bool)) (string, int, string) {
	if len(args) != 1 {
		return "", 0, "not one argument"
	}
	name := strings.Map(func(r rune) rune {
		if r >= '0' && r <= '9' || r >= 'a' && r <= 'z' || r >= 'A' && r <= 'Z' {
			return r
		}
		if r > 0x7f {
			return -1
		}
		return '_'
	}, args[0])
	return name + "\n", 0, ""
}

// lsb is lsb2rcconf, a program of Debian's OpenRC that makes a depend function of a
// header of the Linux Standard Base; gendepends.sh evaluates it in place of the script. For a
// script without one it prints nothing. With one, what it prints here is a call of
// itself, which refuses the service that evaluates it, and no other.
func lsb(args []string, read func(string) ([]byte, bool)) (string, int, string) {
	if len(args) != 1 {
		return "", 0, "not one argument"
	}
	if args[0] == headerArgument {
		return "", 0, "it has a header of the Linux Standard Base"
	}
	text, _ := read(args[0])
	if strings.Contains(string(text), "### BEGIN INIT INFO") {
		return "lsb2rcconf " + headerArgument + "\n", 0, ""
	}
	return "", 0, ""
}

// headerArgument is the name of no file.
const headerArgument = "//header"

// exists is rc-service --exists.
func exists(t *layers.Tree, args []string, read func(string) ([]byte, bool)) (string, int, string) {
	if len(args) != 2 || args[0] != "--exists" && args[0] != "-e" || strings.Contains(args[1], "/") {
		return "", 0, "rc-service for more than --exists"
	}
	name := "/etc/init.d/" + args[1]
	if _, there := read(name); !there || t.Lookup(name).Mode&0o111 == 0 {
		return "", 1, ""
	}
	return "", 0, ""
}

// fstabinfo prints the options of the filesystems of some types.
func fstabinfo(args []string, read func(string) ([]byte, bool)) (string, int, string) {
	if len(args) != 3 || args[0] != "-o" && args[0] != "--options" || args[1] != "-t" && args[1] != "--fstype" {
		return "", 0, "fstabinfo for more than options by type"
	}
	types := "," + args[2] + ","
	text, _ := read("/etc/fstab")
	var b strings.Builder
	status := 1
	for line := range strings.Lines(string(text)) {
		f := strings.Fields(line)
		if len(f) < 4 || strings.HasPrefix(f[0], "#") || !strings.Contains(types, ","+f[2]+",") {
			continue
		}
		b.WriteString(f[3] + "\n")
		status = 0
	}
	return b.String(), status, ""
}

// column is a program that prints one word of the lines that begin with a word.
var column = regexp.MustCompile(`\A/\^([A-Za-z]+)/[ \t]*\{[ \t]*print[ \t]+\$([1-9])[ \t]*\}\z`)

// awk does programs like sshd's, that looks for addresses in its configuration.
func awk(args []string, read func(string) ([]byte, bool)) (string, int, string) {
	if len(args) != 2 || !column.MatchString(args[0]) {
		return "", 0, "a program of awk that this package does not know"
	}
	m := column.FindStringSubmatch(args[0])
	text, there := read(args[1])
	if !there {
		return "", 1, ""
	}
	var b strings.Builder
	for line := range strings.Lines(string(text)) {
		if !strings.HasPrefix(line, m[1]) {
			continue
		}
		word := ""
		if f := strings.Fields(line); len(f) >= int(m[2][0]-'0') {
			word = f[m[2][0]-'1']
		}
		b.WriteString(word + "\n")
	}
	return b.String(), 0, ""
}

package early

import (
	"fmt"
	"regexp"
	"strings"
)

// rcConf are the settings of /etc/rc.conf that change nothing of what this
// package does. The two with a value must have that one.
var rcConf = map[string]string{
	"rc_loopsolver_enable": "", "rc_loopsolver_warnings": "", "rc_tty_number": "", "rc_logger": "", "rc_log_path": "",
	"rc_parallel": "", "rc_interactive": "", "rc_shell": "", "rc_depend_strict": "", "unicode": "",
	"rc_cgroup_mode": "unified", "rc_sys": "-",
}

// assignment is one line of a file that OpenRC sources: a name and a value
// without anything the shell would expand.
var assignment = regexp.MustCompile(`^([A-Za-z_][A-Za-z0-9_]*)=(?:"([^"$` + "`" + `\\]*)"|'([^']*)'|([A-Za-z0-9_./:,@%+-]*))\s*(?:#.*)?$`)

// settings reads a file that OpenRC sources: blank lines, comments and
// assignments of the keys. A key with a value must be set to it, where "-"
// stands for nothing. Anything else is an error.
func settings(text string, keys map[string]string) (map[string]string, error) {
	set := map[string]string{}
	for i, line := range strings.Split(text, "\n") {
		line = strings.TrimSpace(line)
		if line == "" || line[0] == '#' {
			continue
		}
		m := assignment.FindStringSubmatch(line)
		if m == nil {
			return nil, fmt.Errorf("line %d is more than an assignment: %s", i+1, line)
		}
		want, known := keys[m[1]]
		if !known {
			return nil, fmt.Errorf("line %d sets %s, which is not known here", i+1, m[1])
		}
		value := m[2] + m[3] + m[4]
		if want != "" && value != strings.TrimPrefix(want, "-") {
			return nil, fmt.Errorf("line %d sets %s to %q", i+1, m[1], value)
		}
		set[m[1]] = value
	}
	return set, nil
}

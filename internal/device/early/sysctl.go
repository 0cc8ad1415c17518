package early

import (
	"fmt"
	"regexp"
	"strings"
)

func sysctl(in input, _ map[string]string) ([]Step, error) {
	var steps []Step
	for _, file := range in.glob("usr/lib/sysctl.d/*.conf", "etc/sysctl.d/*.conf", "etc/sysctl.conf") {
		list, err := sysctlLines(in.read(file))
		if err != nil {
			return nil, fmt.Errorf("/%s: %w", file, err)
		}
		steps = append(steps, list...)
	}
	return steps, nil
}

// sysctlLine is a setting of sysctl.conf(5) that every sysctl reads the same
// way: no glob, no prefix, no comment behind it, one equals sign.
var sysctlLine = regexp.MustCompile(`^([A-Za-z0-9_]+(?:[.][A-Za-z0-9_-]+)+)[ \t]*=[ \t]*([^=# \t][^=#]*)$`)

// sysctlLines returns what a file sets. A key that the kernel does not have is
// found out when it is written: then the script says so.
func sysctlLines(text string) ([]Step, error) {
	var steps []Step
	for i, line := range strings.Split(text, "\n") {
		line = strings.TrimSpace(line)
		if line == "" || line[0] == '#' {
			continue
		}
		m := sysctlLine.FindStringSubmatch(line)
		if m == nil {
			return nil, fmt.Errorf("line %d is no plain setting: %s", i+1, line)
		}
		steps = append(steps, writeStep{"/proc/sys/" + strings.ReplaceAll(m[1], ".", "/"), strings.TrimSpace(m[2])})
	}
	return steps, nil
}

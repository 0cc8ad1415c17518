package script

import (
	"slices"
	"strings"
)

// runCommand runs a command that is no function, or describes it with -v.
func (c *call) runCommand() int {
	f, args := c.flags("+pvV")
	switch {
	case f.has('V'):
		c.refuse(Unsupported, "the option -V")
	case len(args) == 0:
		return 0
	case f.has('v'):
		text, found := c.find(args[0]) // ash looks at no other
		if !found {
			return 127
		}
		c.print("%s\n", text)
		return 0
	}
	c.shell.command = args[0]
	sub := c.callOf(args)
	if b := builtin(args[0]); b != nil {
		return b(sub)
	}
	return sub.utility()
}

// find says what a name of a command stands for.
func (c *call) find(name string) (string, bool) {
	if c.functions[name] != nil || builtin(name) != nil && name != "which" || slices.Contains([]string{"echo", "printf", "test", "["}, name) {
		return name, true
	}
	if _, p, found := c.locate(name); found {
		return p, true
	}
	if isApplet(name) {
		return "/bin/" + name, true
	}
	return "", false
}

// describe is type and which.
func (c *call) describe() int {
	status := 0
	for _, name := range c.args[1:] {
		if strings.HasPrefix(name, "-") {
			c.refuse(Unsupported, "the option %s", name)
		}
		text, found := c.find(name)
		switch {
		case !found && c.args[0] == "type":
			c.print("%s: not found\n", name)
			status = 127
		case !found:
			status = 1
		case c.args[0] == "type":
			c.print("%s is %s\n", name, text)
		case strings.Contains(text, "/"):
			c.print("%s\n", text)
		default:
			status = 1
		}
	}
	return status
}

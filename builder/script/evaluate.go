package script

import (
	"context"
	"maps"
	"slices"
	"strings"
	"time"

	"mvdan.cc/sh/v3/syntax"

	"github.com/pikelet-os/pikelet/layers"
)

// maxParts bounds the parts of a script.
const maxParts = 1024

// Inquiry is what Evaluate is told.
type Inquiry struct {
	// Name is the script's $0.
	Name string
	// Environment are the variables that it begins with.
	Environment map[string]string
	// Part is the variable whose value names a part.
	Part string
	// Commands are done in place of the tree's programs of these names.
	Commands map[string]Command
}

// Command does what a program of the tree would. The arguments are without its
// name; read returns a file of the tree by its path, and reports whether it is one.
// With a reason, whatever calls it is refused as Unsupported.
type Command func(args []string, read func(name string) ([]byte, bool)) (output string, status int, reason string)

// Part is what became of one part of a script.
type Part struct {
	Name    string
	Output  string   // what it wrote to its output, at most 64 KiB; its errors are dropped
	Refusal *Refusal // why it was not done; nothing but Looked and Listed is set then
	// Variables are the names of those whose value its output may depend on, sorted.
	Variables []string
	// Looked are the names in the tree that it looked at, whether there or not,
	// without a slash before them, sorted. No link leads through any: links are
	// among them.
	Looked []string
	// Listed are the directories whose names it read, sorted.
	Listed []string
}

// Evaluate does what a script does, and changes nothing: it is for scripts that
// print something. Each ( ) of the script's own lines, outside of functions, is a
// part. A refusal in it ends only that part, and the limits of a script are those
// of a part. The last part, without a name, is what is outside of all others.
//
// The error is that of ctx, or of contents of the tree that cannot be read.
func Evaluate(ctx context.Context, t *layers.Tree, script []byte, q Inquiry) ([]Part, error) {
	m := &machine{ended: ctx.Err, accounts: NewAccounts(nil, time.Time{}), options: Options{Name: q.Name}, inquiry: &q, notes: newNotes()}
	m.view = newView(t, m)
	m.output = &buffer{m: m, what: "the script's output"}
	_, refusal, err := m.interpret(script)
	if err != nil {
		return nil, err
	}
	return append(m.finished, m.notes.part("", m.output.String(), refusal)), nil
}

// prepare gives the script's shell what the inquiry says.
func (q *Inquiry) prepare(sh *shell) {
	sh.files[2] = &stream{in: &source{}, out: nowhere{}}
	for name, value := range q.Environment {
		sh.vars[name] = variable{value: value, set: true, exported: true}
	}
}

// ownPart runs commands as a part where they are one, and reports whether they are.
func (sh *shell) ownPart(list []*syntax.Stmt) bool {
	if sh.inquiry == nil || sh.calls > 0 || sh.inPart {
		return false
	}
	if len(sh.finished) == maxParts {
		sh.refuse(Limit, "more than %d parts", maxParts)
	}
	name, _ := sh.get(sh.inquiry.Part)
	outer, steps, work, nesting, scripts := sh.notes, sh.steps, sh.work, sh.nesting, sh.scripts
	printed := sh.output.Len()
	sh.notes, sh.inPart, sh.steps, sh.work = newNotes(), true, 0, 0
	refusal := sh.apart(list)
	output := string(sh.output.Bytes()[printed:])
	sh.output.Truncate(printed)
	sh.finished = append(sh.finished, sh.notes.part(name, output, refusal))
	sh.notes, sh.inPart, sh.steps, sh.work, sh.nesting, sh.scripts = outer, false, steps, work, nesting, scripts
	if refusal != nil {
		sh.status = 1
	}
	return true
}

// apart runs commands in a shell of their own, which a refusal ends.
func (sh *shell) apart(list []*syntax.Stmt) (refusal *Refusal) {
	defer func() {
		switch r := recover().(type) {
		case nil:
		case *Refusal:
			refusal = r
		default:
			panic(r)
		}
	}()
	sh.status = sh.subshell(nil, func(sub *shell) { sub.list(list) })
	return nil
}

// instead does a command of the inquiry's, where the tree has a program of that name.
func (c *call) instead(known string) (status int, done bool) {
	if c.inquiry == nil || c.inquiry.Commands[known] == nil {
		return 0, false
	}
	if _, found := c.search(c.args[0]); !found {
		return 0, false
	}
	read := func(name string) ([]byte, bool) {
		b, err := c.read(name)
		return b, err == nil
	}
	output, status, reason := c.inquiry.Commands[known](c.args[1:], read)
	if reason != "" {
		c.refuse(Unsupported, "%s", reason)
	}
	c.print("%s", output)
	return status, true
}

// notes are what a part looked at.
type notes struct {
	used   map[string]bool            // variables whose value decided something, or was printed
	from   map[string]map[string]bool // for each variable, those that its value was made of
	target string                     // the variable that a value is being made for; "" for none
	looked map[string]bool
	listed map[string]bool
}

func newNotes() *notes {
	return &notes{used: map[string]bool{}, from: map[string]map[string]bool{}, looked: map[string]bool{}, listed: map[string]bool{}}
}

// part ends the notes of a part.
func (n *notes) part(name, output string, refusal *Refusal) Part {
	p := Part{Name: name, Refusal: refusal, Looked: slices.Sorted(maps.Keys(n.looked)), Listed: slices.Sorted(maps.Keys(n.listed))}
	if refusal != nil {
		return p
	}
	p.Output = output
	used := map[string]bool{}
	var use func(string)
	use = func(name string) {
		if used[name] {
			return
		}
		used[name] = true
		for source := range n.from[name] {
			use(source)
		}
	}
	for name := range n.used {
		use(name)
	}
	p.Variables = slices.Sorted(maps.Keys(used))
	return p
}

// making has what f reads of variables count as read for the value of a variable:
// it matters where that one does. For the name "" all that f reads matters.
func (m *machine) making(name string, f func() string) string {
	if m.notes == nil {
		return f()
	}
	n, outer := m.notes, m.notes.target
	defer func() { n.target = outer }()
	n.target = name
	return f()
}

// ignored expands the words of the command that does nothing with them; nil for
// another one. It is how scripts give variables a default.
func (sh *shell) ignored(words []*syntax.Word) (args []string) {
	if sh.notes == nil || len(words) == 0 || words[0].Lit() != ":" {
		return nil
	}
	sh.making(":", func() string {
		args = sh.arguments(words)
		return ""
	})
	return args
}

// decides notes that a variable's value matters, whatever it is read for.
func (m *machine) decides(name string) {
	if m.notes != nil {
		m.notes.used[name] = true
	}
}

// readVariable notes that a variable's value was read.
func (m *machine) readVariable(name string) {
	n := m.notes
	switch {
	case n == nil:
	case n.target == "":
		n.used[name] = true
	default:
		if n.from[n.target] == nil {
			n.from[n.target] = map[string]bool{}
		}
		n.from[n.target][name] = true
	}
}

// look notes that a name was looked at.
func (m *machine) look(name string) {
	if m.notes == nil {
		return
	}
	if top, below, _ := strings.Cut(name, "/"); below != "" && (top == "run" || top == "tmp") {
		m.refuse(Machine, "it uses /%s", name)
	}
	m.notes.looked[name] = true
}

// list notes that the names in a directory were read.
func (m *machine) list(dir string) {
	if m.notes != nil {
		m.notes.listed[dir] = true
	}
}

// mayChange refuses changes where nothing may be changed.
func (m *machine) mayChange() {
	if m.inquiry != nil {
		m.refuse(Unsupported, "it changes files")
	}
}

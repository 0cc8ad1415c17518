// Package script does what the install scripts of Alpine's packages do, to a
// tree of files instead of a machine. A script is read as busybox' ash would
// read it, and the commands it calls are functions over the tree: nothing of a
// package is executed, and no file, process, clock or network of the computer is
// looked at, so that the result is a function of the tree and the script.
//
// What cannot be done like that refuses the whole script: Run then leaves the
// tree as it was and says why. See Refusal.
package script

import (
	"bytes"
	"context"
	"fmt"
	"maps"
	"path"
	"slices"
	"strings"
	"time"

	"github.com/pikelet-os/pikelet/layers"
)

// Limits of a script. The largest of Alpine's has 6 KiB and takes some hundred
// steps.
const (
	maxScript  = 64 << 10 // bytes, also of one that eval, . or a script calls
	maxSteps   = 20_000   // commands, turns of loops and expansions
	maxText    = 64 << 10 // bytes of a variable, of what a command writes to another, and of all output
	maxWritten = 8 << 20  // bytes written to files, all together
	maxChanges = 4096     // files made, changed or removed, all together
	maxWork    = 64 << 20 // bytes looked at, all together, which bounds the time of a script
	maxNesting = 400      // commands, calls and expansions inside each other
	maxScripts = 8        // scripts that call each other
	maxFields  = 4096     // words of a command
	maxFiles   = 32       // file descriptors
)

// Options are what a script is told.
type Options struct {
	// Name is the script's $0.
	Name string
	// Args are its arguments: the version that is installed, or the
	// directories that changed for a trigger.
	Args []string
	// Epoch is the modification time of what the script makes or changes.
	Epoch time.Time
	// Source is where files that the script makes are said to come from. One
	// that it changes keeps what it has.
	Source string
	// Elsewhere are commands whose work the builder does itself, by name. They
	// do nothing and succeed.
	Elsewhere map[string]bool
}

// Result is what became of a script.
type Result struct {
	// Status is the exit status, 0 to 255. What a script did before it
	// failed stays done, as with a shell.
	Status int
	// Output is what it wrote to its output and its errors, at most 64 KiB.
	Output string
	// Elsewhere are the commands of Options.Elsewhere that it called, sorted.
	Elsewhere []string
	// Changed are the files that it made, changed or removed, sorted.
	Changed []string
	// Refusal says why the script was not done; nil where it was. Nothing
	// else of the result is set then, and the tree is as it was.
	Refusal *Refusal
}

// Kind is why a script is refused.
type Kind string

// The kinds of a refusal.
const (
	Foreign     Kind = "foreign program"   // the script needs a program of the image, which a build does not execute
	Secret      Kind = "secret"            // it makes a key or a password, which all nodes of an image would share
	Background  Kind = "background job"    // it leaves something running
	Limit       Kind = "limit"             // it is too long, too large or too deep
	Unsupported Kind = "unsupported"       // a construct, command or option that this package does not know
	Unfit       Kind = "not for an image"  // it makes what no image of ours may have
	Machine     Kind = "depends on a node" // it looks at devices, processes, the clock or the network
	Syntax      Kind = "syntax error"
	Bug         Kind = "internal error" // of this package
)

// Refusal is why a script was not done.
type Refusal struct {
	Kind    Kind
	Line    int    // of the script, from 1; 0 where it is not one line's
	Command string // the first word of the command; "" for none
	Reason  string
}

// String returns the refusal as one line.
func (r *Refusal) String() string {
	text := fmt.Sprintf("%s: %s", r.Kind, r.Reason)
	if r.Command != "" {
		text = r.Command + ": " + text
	}
	if r.Line > 0 {
		text = fmt.Sprintf("line %d: %s", r.Line, text)
	}
	return text
}

// fault is an error of the tree or of the caller, which ends Run.
type fault struct{ err error }

// machine is what all shells of one script share.
type machine struct {
	ended    func() error // why the caller has the script end now, if it does
	view     *view
	accounts *Accounts
	options  Options
	output   *buffer

	steps, nesting, scripts int
	work                    int64
	line                    int
	command                 string
	elsewhere               map[string]bool
	temporary               int // names that mktemp has made

	// For Evaluate only.
	inquiry  *Inquiry
	notes    *notes
	finished []Part
	inPart   bool
}

// Run does what a script does to the files of a tree. Accounts that it makes
// get their numbers by a's rules.
//
// The error is that of ctx, of contents of the tree that cannot be read, or of
// two accounts that get one number, and the tree is as it was; or of a tree that
// takes no more, which is not to be used then.
func Run(ctx context.Context, t *layers.Tree, a *Accounts, script []byte, o Options) (Result, error) {
	m := &machine{ended: ctx.Err, accounts: a.clone(), options: o, elsewhere: map[string]bool{}}
	m.view = newView(t, m)
	m.output = &buffer{m: m, what: "the script's output"}
	status, refusal, err := m.interpret(script)
	if err != nil || refusal != nil {
		return Result{Refusal: refusal}, err
	}
	changed, err := m.view.commit(o.Source)
	if err != nil {
		return Result{}, err
	}
	a.hashed = m.accounts.hashed
	return Result{Status: status, Output: m.output.String(), Elsewhere: slices.Sorted(maps.Keys(m.elsewhere)), Changed: changed}, nil
}

// interpret recovers from what ends a script before its time, be it a mistake of the
// parser's or of this package.
func (m *machine) interpret(script []byte) (status int, refusal *Refusal, err error) {
	defer func() {
		switch r := recover().(type) {
		case nil:
		case *Refusal:
			refusal = r
		case fault:
			err = r.err
		default:
			refusal = &Refusal{Kind: Bug, Line: m.line, Command: m.command, Reason: fmt.Sprint(r)}
		}
	}()
	sh := newShell(m)
	if m.inquiry != nil {
		m.inquiry.prepare(sh)
	}
	args, interpreted := interpreter(script)
	if !interpreted && bytes.HasPrefix(script, []byte("#!")) {
		line, _, _ := strings.Cut(string(script), "\n")
		m.refuse(Foreign, "the script is for %q", strings.TrimSpace(line[2:]))
	}
	for _, arg := range args {
		sh.set([]string{arg})
	}
	status = sh.toplevel(func() { sh.source(script) })
	if m.inquiry != nil {
		return status, nil, nil
	}
	m.audit(newView(m.view.tree, m))
	return status, nil, nil
}

// interpreter returns the options of the first line of a script of a shell that
// ash can stand for, and reports whether it is one.
func interpreter(script []byte) ([]string, bool) {
	line, _, _ := strings.Cut(string(script[:min(len(script), 256)]), "\n")
	words := strings.Fields(strings.TrimPrefix(line, "#!"))
	if !strings.HasPrefix(line, "#!") || len(words) == 0 {
		return nil, false
	}
	if path.Base(words[0]) == "env" || path.Base(words[0]) == "busybox" {
		words = words[1:]
	}
	if len(words) == 0 || !slices.Contains([]string{"sh", "ash", "dash"}, path.Base(words[0])) {
		return nil, false
	}
	return words[1:], true
}

// refuse ends the script.
func (m *machine) refuse(kind Kind, format string, args ...any) {
	panic(&Refusal{Kind: kind, Line: m.line, Command: m.command, Reason: fmt.Sprintf(format, args...)})
}

// step counts what a script does.
func (m *machine) step() {
	if err := m.ended(); err != nil {
		panic(fault{err})
	}
	if m.steps++; m.steps > maxSteps {
		m.refuse(Limit, "more than %d steps", maxSteps)
	}
}

// effort counts bytes that are looked at.
func (m *machine) effort(n int) {
	if m.work += int64(n); m.work > maxWork {
		m.refuse(Limit, "more than %d MiB to look at", maxWork>>20)
	}
}

// nest counts what is inside each other; the function that it returns ends it.
func (m *machine) nest() func() {
	if m.nesting++; m.nesting > maxNesting {
		m.refuse(Limit, "commands nested more than %d deep", maxNesting)
	}
	return func() { m.nesting-- }
}

// bound refuses a text that is too long.
func (m *machine) bound(n int, what string) {
	if n > maxText {
		m.refuse(Limit, "%s has more than %d KiB", what, maxText>>10)
	}
}

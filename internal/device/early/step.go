package early

import (
	"errors"
	"fmt"
	"io/fs"
	"path"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// Machine is what steps act on.
type Machine interface {
	// Mkdir makes a directory, and those above it. One that is there stays as
	// it is.
	Mkdir(path string, mode fs.FileMode, gid int) error
	// Link makes a symbolic link, in the place of a file that is there.
	Link(target, path string) error
	// Create makes an empty file where there is none, and sets its mode, and
	// its group where that is not negative.
	Create(path string, mode fs.FileMode, gid int) error
	// Write writes to a file as the shell's > does.
	Write(path, text string) error
	Read(path string) (string, error)
	Mounted(path string) (bool, error)
	Mount(source, target, fstype string, flags uintptr, data string) error
	Hostname(name string) error
	// ConsoleLevel sets the level of kernel messages on the console.
	ConsoleLevel(level int) error
	// KernelLog returns the kernel's messages so far, as the kernel has them.
	KernelLog() (string, error)
	// Load loads one module. One that is loaded is no error.
	Load(file string, compressed bool) error
	// Run runs a program and waits for its end.
	Run(args ...string) error
}

// Step is one thing a service does. String says it as a shell would.
type Step interface {
	fmt.Stringer
	do(Machine) error
}

// mkdirStep makes a directory.
type mkdirStep struct {
	path string
	mode fs.FileMode
	gid  int
}

func (s mkdirStep) String() string     { return fmt.Sprintf("mkdir -p -m %04o %s", s.mode, s.path) }
func (s mkdirStep) do(m Machine) error { return m.Mkdir(s.path, s.mode, s.gid) }

type linkStep struct{ target, path string }

func (s linkStep) String() string     { return "ln -snf " + s.target + " " + s.path }
func (s linkStep) do(m Machine) error { return m.Link(s.target, s.path) }

type createStep struct {
	path string
	mode fs.FileMode
	gid  int
}

func (s createStep) String() string {
	return fmt.Sprintf("create %s, mode %04o, group %d", s.path, s.mode, s.gid)
}
func (s createStep) do(m Machine) error { return m.Create(s.path, s.mode, s.gid) }

// writeStep writes a line, as echo does.
type writeStep struct{ path, text string }

func (s writeStep) String() string     { return "echo '" + s.text + "' > " + s.path }
func (s writeStep) do(m Machine) error { return m.Write(s.path, s.text+"\n") }

// mountStep mounts something where nothing is mounted yet.
type mountStep struct {
	source, target, fstype string
	flags                  uintptr
	data                   string
	otherwise              bool // without data, where the kernel refuses it
}

func (s mountStep) String() string {
	options := flagNames(s.flags)
	if s.data != "" {
		options = append(options, s.data)
	}
	return fmt.Sprintf("mount -t %s -o %s %s %s", s.fstype, strings.Join(options, ","), s.source, s.target)
}

func (s mountStep) do(m Machine) error {
	if there, err := m.Mounted(s.target); err != nil || there {
		return err
	}
	err := m.Mount(s.source, s.target, s.fstype, s.flags, s.data)
	if err != nil && s.otherwise {
		err = m.Mount(s.source, s.target, s.fstype, s.flags, "")
	}
	if err != nil {
		return fmt.Errorf("mounting %s: %w", s.target, err)
	}
	return nil
}

// controllersStep hands all controllers of a cgroup to its children, as far as
// the kernel lets it.
type controllersStep struct{ path string }

func (s controllersStep) String() string {
	return "all of " + s.path + "/cgroup.controllers > cgroup.subtree_control"
}

func (s controllersStep) do(m Machine) error {
	text, err := m.Read(s.path + "/cgroup.controllers")
	if err != nil {
		return err
	}
	for _, c := range strings.Fields(text) {
		_ = m.Write(s.path+"/cgroup.subtree_control", "+"+c+"\n") // the script goes on too
	}
	return nil
}

type hostnameStep struct{ name string }

func (s hostnameStep) String() string     { return "hostname " + s.name }
func (s hostnameStep) do(m Machine) error { return m.Hostname(s.name) }

type levelStep struct{ level int }

func (s levelStep) String() string     { return fmt.Sprintf("dmesg -n %d", s.level) }
func (s levelStep) do(m Machine) error { return m.ConsoleLevel(s.level) }

// logStep keeps the kernel's messages in a file, without their levels.
type logStep struct{ path string }

func (s logStep) String() string { return "dmesg > " + s.path }

func (s logStep) do(m Machine) error {
	if text, err := m.KernelLog(); err == nil {
		_ = m.Write(s.path, withoutLevels(text)) // the script goes on too
	}
	return nil
}

// withoutLevels drops the <6> at the beginning of lines.
func withoutLevels(text string) string {
	lines := strings.SplitAfter(text, "\n")
	for i, line := range lines {
		if strings.HasPrefix(line, "<") {
			if _, rest, ok := strings.Cut(line, ">"); ok {
				lines[i] = rest
			}
		}
	}
	return strings.Join(lines, "")
}

// loadStep loads a module after those it needs.
type loadStep struct {
	files   []string
	mayFail bool
}

func (s loadStep) String() string { return "load " + baseNames(s.files) }

func baseNames(files []string) string {
	names := make([]string, len(files))
	for i, f := range files {
		names[i] = path.Base(f)
	}
	return strings.Join(names, " ")
}

func (s loadStep) do(m Machine) error {
	for _, f := range s.files {
		if err := m.Load(f, path.Ext(f) != ".ko"); err != nil {
			if s.mayFail {
				return nil
			}
			return fmt.Errorf("loading %s: %w", f, err)
		}
	}
	return nil
}

// runStep runs a program of the image.
type runStep struct {
	args    []string
	mayFail bool
}

func (s runStep) String() string { return strings.Join(s.args, " ") }

func (s runStep) do(m Machine) error {
	if err := m.Run(s.args...); err != nil && !s.mayFail {
		return fmt.Errorf("running %s: %w", s, err)
	}
	return nil
}

// startedDir is where OpenRC keeps which services are started.
const startedDir = "/run/openrc/started"

// Report is the outcome of a plan.
type Report struct {
	Done []string          // in their order
	Left map[string]string // why each of the others is left to OpenRC
	Took map[string]time.Duration
}

// String returns the report as lines of text.
func (r *Report) String() string {
	var b strings.Builder
	for _, name := range r.Done {
		fmt.Fprintf(&b, "%s took %.3f s\n", name, r.Took[name].Seconds())
	}
	return b.String() + leftText(r.Left)
}

// Run does what the plan says and marks each service as started, as OpenRC
// does itself. A service that fails is left, and so is what comes after it.
func (p *Plan) Run(m Machine) *Report {
	r := &Report{Left: map[string]string{}, Took: map[string]time.Duration{}}
	for name, reason := range p.Left {
		r.Left[name] = reason
	}
	for _, s := range p.Services {
		start := time.Now()
		if err := s.run(m, r.Left); err != nil {
			r.Left[s.Name] = err.Error()
			continue
		}
		r.Done = append(r.Done, s.Name)
		r.Took[s.Name] = time.Since(start)
	}
	return r
}

func (s Service) run(m Machine, left map[string]string) error {
	for _, name := range s.After {
		if _, is := left[name]; is {
			return errors.New("comes after " + name + ", which is left")
		}
	}
	for _, step := range s.Steps {
		if err := step.do(m); err != nil {
			return err
		}
	}
	if err := m.Mkdir(startedDir, 0o755, 0); err != nil {
		return err
	}
	return m.Link("/etc/init.d/"+s.Name, startedDir+"/"+s.Name)
}

// mountFlags are the options of mount that are flags of the kernel.
var mountFlags = []struct {
	name string
	flag uintptr
}{
	{"ro", unix.MS_RDONLY}, {"nosuid", unix.MS_NOSUID}, {"nodev", unix.MS_NODEV}, {"noexec", unix.MS_NOEXEC},
	{"noatime", unix.MS_NOATIME}, {"nodiratime", unix.MS_NODIRATIME}, {"relatime", unix.MS_RELATIME}, {"strictatime", unix.MS_STRICTATIME},
}

func flagNames(flags uintptr) []string {
	var names []string
	for _, f := range mountFlags {
		if flags&f.flag != 0 {
			names = append(names, f.name)
		}
	}
	return names
}

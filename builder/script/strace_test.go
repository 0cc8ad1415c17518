package script

import (
	"context"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/pikelet-os/pikelet/internal/testing/storetest"
)

// What a child of TestNoCallsOfTheHost is told: which of traced it runs.
const tracedVariable = "PIKELET_TRACED_SCRIPT"

// Paths that the child asks for before it runs a script and behind that.
const (
	tracedBegin = "/pikelet-trace/begin"
	tracedEnd   = "/pikelet-trace/end"
)

// traced are an ordinary script and a hostile one, which does what it can before what
// it is refused for.
var traced = map[string]string{
	"ordinary": `#!/bin/sh -e
addgroup -S traced 2>/dev/null
adduser -S -D -h /var/lib/traced -s /sbin/nologin -G traced -g traced traced 2>/dev/null
install -d -o traced -m 0750 /var/lib/traced/db
for f in /etc/example/*.conf; do [ -L "$f" ] || sed -i 's/80/8080/' "$f"; done
grep -v '^#' /etc/conf.d/exampled | sort | while read -r l; do echo "$l"; done >/tmp/out
x=$(find /usr/share/data -name '*.txt' | xargs cat) && printf '%s\n' "$x" | tr a-z A-Z >>/tmp/out
ln -s /etc/passwd /tmp/link; cp -a /usr/share/data /tmp/data; rm -rf /usr/share/data; helper 1 || true
. /usr/share/example/lib.sh && greet you | (cat; umask 077; cat /etc/shells) >/tmp/greeting
exit 0
`,
	"hostile": `cat /etc/hostname ~root/.profile /root/.ssh/id_rsa >/tmp/a 2>&1; cat ../../../../../../etc/machine-id
cd /tmp/../../..; echo $HOME $TMPDIR >x; mkdir -p root/.ssh; echo key >root/.ssh/authorized_keys; ls / >>x; ls /home >>x
echo /*/* /../root/.ssh/* >>x
echo x >"$TMPDIR/sh-interp-x"; find / >>x; cat /etc/resolv.conf | sh | sh; eval 'cat /etc/hosts'
command -v ls; type cat; which sh; id; whoami; getent passwd root; pidof init; (umask 0; touch /tmp/../../var/y) 2>/dev/null
ln -s / /tmp/root; echo x >/tmp/root/etc/cron; chmod 4755 /tmp/root/usr/bin/helper; chown 0:0 /tmp/root/etc/passwd
while :; do echo x >>/x; x=$(cat /x | sort | head -n 1); done
`,
	// These two are there to see that the test finds what it looks for.
	"opens a file": "", "makes a socket": "",
}

// TestTracedChild runs in the child of TestNoCallsOfTheHost.
func TestTracedChild(t *testing.T) {
	name := os.Getenv(tracedVariable)
	if name == "" {
		t.Skip("it is for a child of TestNoCallsOfTheHost")
	}
	tree := newTree(t, storetest.File(t, 1<<30))
	_, _ = os.Stat(tracedBegin)
	switch name {
	case "opens a file":
		_, _ = os.ReadFile("/etc/hostname")
	case "makes a socket":
		_, _ = net.Dial("unix", "/pikelet-trace/socket")
	}
	res, err := Run(context.Background(), tree, NewAccounts(nil, epoch), []byte(traced[name]), options("1.0"))
	_, _ = os.Stat(tracedEnd)
	if err != nil || name != "hostile" && res.Refusal != nil || name == "hostile" && (res.Refusal == nil || res.Refusal.Kind != Limit) {
		t.Fatalf("%+v, %v", res, err)
	}
}

// allowedCalls are what Go's runtime asks of the kernel, for memory, threads and
// time, and what reads and writes files that are open: the store's own is.
var allowedCalls = strings.Fields(`read write pread64 pwrite64 lseek fstat ftruncate fallocate close fcntl mmap munmap madvise mprotect brk
	futex nanosleep clock_nanosleep clock_gettime sched_yield sched_getaffinity gettid getpid tgkill rt_sigprocmask rt_sigaction rt_sigreturn
	sigaltstack epoll_create1 epoll_ctl epoll_pwait eventfd2 timer_create timer_settime timer_delete restart_syscall getrandom
	set_robust_list rseq prctl exit getrusage membarrier`)

// A line of strace -f: the process, and the call with its arguments; or what is no
// call, a signal or the end of a process.
var (
	callLine  = regexp.MustCompile(`^\d+ +(\w+)\((.*)$`)
	otherLine = regexp.MustCompile(`^\d+ +(<\.\.\. |--- |\+\+\+ )`)
)

// forbiddenCalls returns the calls of a record of strace between the two marks that are
// not allowed.
func forbiddenCalls(t *testing.T, record string) []string {
	t.Helper()
	_, rest, began := strings.Cut(record, `"`+tracedBegin+`"`)
	between, _, ended := strings.Cut(rest, `"`+tracedEnd+`"`)
	if !began || !ended {
		t.Fatalf("the record lacks a mark:\n%.2000s", record)
	}
	var found []string
	lines := strings.Split(between, "\n")
	if len(lines) < 2 {
		return nil
	}
	for _, line := range lines[1 : len(lines)-1] { // what is around them belongs to the marks
		call := callLine.FindStringSubmatch(line)
		switch {
		case call == nil && (otherLine.MatchString(line) || line == ""):
		case call == nil:
			t.Fatalf("no line of strace: %q", line)
		case slices.Contains(allowedCalls, call[1]):
		case (call[1] == "clone" || call[1] == "clone3") && strings.Contains(call[2], "CLONE_THREAD"):
		default:
			found = append(found, line)
		}
	}
	return found
}

// TestNoCallsOfTheHost: while a script is evaluated, the process opens, reads and changes
// nothing by a name, and makes no pipe, no socket and no process.
func TestNoCallsOfTheHost(t *testing.T) {
	if testing.Short() {
		t.Skip("it needs strace")
	}
	strace, err := exec.LookPath("strace")
	if err != nil {
		t.Fatal("strace is missing; make setup-test installs it")
	}
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	for name := range traced {
		t.Run(name, func(t *testing.T) {
			record := filepath.Join(t.TempDir(), "record")
			cmd := exec.Command(strace, "-f", "-qq", "-o", record, self, "-test.run", "^TestTracedChild$", "-test.v")
			cmd.Env = append(os.Environ(), tracedVariable+"="+name, "TMPDIR="+t.TempDir())
			out, err := cmd.CombinedOutput()
			if err != nil || !strings.Contains(string(out), "--- PASS: TestTracedChild") {
				t.Fatalf("%v\n%s", err, out)
			}
			b, err := os.ReadFile(record)
			if err != nil {
				t.Fatal(err)
			}
			found := forbiddenCalls(t, string(b))
			switch name {
			case "opens a file":
				if len(found) == 0 || !strings.Contains(found[0], `"/etc/hostname"`) {
					t.Errorf("it was not found: %q", found)
				}
			case "makes a socket":
				if len(found) == 0 || !strings.Contains(found[0], "socket(") {
					t.Errorf("it was not found: %q", found)
				}
			default:
				for _, line := range found {
					t.Error(line)
				}
			}
		})
	}
}

package tools

import (
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
)

// install runs install.sh where dpkg knows no package but mtools, and apt-get
// is a script.
func install(t *testing.T, apt string, packages ...string) (string, error) {
	t.Helper()
	dir := t.TempDir()
	for name, text := range map[string]string{
		"apt-get":    apt,
		"sleep":      "echo slept\n",
		"sudo":       "\"$@\"\n",
		"dpkg-query": "case \"$*\" in *mtools*) echo install ok installed;; *) exit 1;; esac\n",
	} {
		if err := os.WriteFile(filepath.Join(dir, name), []byte("#!/bin/sh\n"+text), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	cmd := exec.Command("sh", append([]string{"install.sh"}, packages...)...)
	cmd.Env = append(os.Environ(), "PATH="+dir+":"+os.Getenv("PATH"), "STATE="+dir)
	out, err := cmd.CombinedOutput()
	return string(out), err
}

// held is an apt-get that finds a lock held the first two times it updates and
// the first time it installs.
const held = `case "$*" in
*update*) n=2; what="Could not get lock /var/lib/apt/lists/lock. It is held by process 7 (apt-get)";;
*) n=1; what="Unable to acquire the dpkg frontend lock (/var/lib/dpkg/lock-frontend), is another process using it?";;
esac
for a do case $a in update|install) f=$STATE/$a;; esac; done
echo x >>$f
if [ $(wc -l <$f) -le $n ]; then echo "E: $what" >&2; exit 100; fi
echo "Setting up kmod (30-1) ..."
`

func TestInstallWaitsForLocks(t *testing.T) {
	out, err := install(t, held, "mtools", "kmod")
	if err != nil || strings.Count(out, "slept\n") != 3 {
		t.Errorf("%v, it waited %d times, want 3\n%s", err, strings.Count(out, "slept\n"), out)
	}
	for _, want := range []string{"installing Debian packages: kmod\n", "/var/lib/apt/lists/lock. It is held by process 7",
		"installed kmod (30-1)\n"} {
		if !strings.Contains(out, want) {
			t.Errorf("no %q in\n%s", want, out)
		}
	}
}

func TestInstallNamesFailedPackage(t *testing.T) {
	out, err := install(t, "echo 'E: Unable to locate package ghost' >&2; exit 100\n", "ghost")
	if err == nil || strings.Contains(out, "slept") || !strings.Contains(out, "E: Unable to locate package ghost\n") ||
		!strings.Contains(out, "install by hand: ghost\n") {
		t.Errorf("%v\n%s", err, out)
	}
}

func TestInstallSkipsInstalledPackages(t *testing.T) {
	if out, err := install(t, "exit 1\n", "mtools"); err != nil || out != "" {
		t.Errorf("%v\n%s", err, out)
	}
}

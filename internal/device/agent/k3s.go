package agent

import (
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"github.com/pikelet-os/pikelet/internal/shared/nodeconfig"
)

// Where the k3s program is: as a package of Alpine's has it, or as the k3s
// overlay unpacks an upstream release.
var k3sPrograms = []string{"/usr/lib/k3s/bin/k3s", "/usr/bin/k3s", "/usr/local/bin/k3s"}

// Where k3s keeps things (docs/platform.md 7.1), and where the image brings
// them.
const (
	k3sData      = "/var/lib/rancher/k3s"
	imageAirgap  = "/usr/share/k3s/images"
	imageApplied = "/usr/lib/pikelet/manifests"
	imageCharts  = "/usr/share/k3s/charts"
	// k3sRelease is where the image has an unpacked release.
	k3sRelease = "/usr/lib/k3s"
	// k3sPlugins is where the network plugins of pods are.
	k3sPlugins = k3sData + "/data/cni"
)

// defaultTimeWait is how long k3s waits for the right time: certificates that
// are not valid yet keep a cluster from starting, and so does a time server
// that nobody can reach.
const defaultTimeWait = 120 * time.Second

// runK3s is the k3s service: it waits for volume and time, puts what the image
// brings into k3s' folders, and becomes k3s.
func runK3s(out io.Writer) error {
	cfg, err := readConfig()
	if err != nil {
		return err
	}
	if cfg.K3s.Role == "" {
		return errors.New("the node config gives this node no part in a cluster: k3s.role")
	}
	program, err := k3sProgram()
	if err != nil {
		return err
	}
	if err := waitVolume(out); err != nil {
		return err
	}
	limit := defaultTimeWait
	if cfg.Time.Wait != 0 {
		limit = time.Duration(cfg.Time.Wait)
	}
	if waited, ok := waitTime(limit); !ok {
		fmt.Fprintf(out, "pikelet: no time server answered within %v; starting k3s with the time this node has: %s\n", limit, time.Now().UTC().Format(time.RFC3339))
	} else {
		fmt.Fprintf(out, "pikelet: the time is right, after %v\n", waited.Round(time.Second))
	}
	if err := linkImages(); err != nil {
		return err
	}
	if cfg.K3s.Role == "server" {
		if err := placeManifests(); err != nil {
			return err
		}
		if err := startDatastore(cfg, program); err != nil {
			return err
		}
	}
	env := os.Environ()
	if filepath.Dir(filepath.Dir(program)) == k3sRelease {
		if err := linkPlugins(k3sPlugins, k3sRelease+"/bin"); err != nil {
			return err
		}
		env = releaseEnv(env, bundledFirst(cfg.K3s))
	}
	return unix.Exec(program, []string{"k3s", cfg.K3s.Role}, env)
}

// releaseEnv returns the environment in which the wrapper of a release runs it
// once it has unpacked itself. k3s tells containerd that plugins are where PATH
// first has host-local, so k3sPlugins comes first: it can be written to, as
// multus and others that bring plugins must (k3s-io/k3s#10868, #11790). What
// the release bundles of a system's programs comes last, unless bundled asks
// for it to come before the system's own. K3S_DATA_DIR, which wrappers once set,
// moves the data of a k3s since August 2024 (k3s-io/k3s#10589): it is not set.
func releaseEnv(env []string, bundled bool) []string {
	system := ""
	env = slices.DeleteFunc(slices.Clone(env), func(v string) bool { // of two, the first counts
		path, is := strings.CutPrefix(v, "PATH=")
		if is {
			system = path
		}
		return is || strings.HasPrefix(v, "K3S_DATA_DIR=")
	})
	list := []string{k3sPlugins, k3sRelease + "/bin", system, k3sRelease + "/bin/aux"}
	if bundled {
		list[2], list[3] = list[3], list[2]
	}
	return append(env, "PATH="+strings.Join(list, ":"))
}

// bundledFirst reports whether the option prefer-bundled-bin is set, which is
// the wrapper's to look at.
func bundledFirst(k nodeconfig.K3s) bool {
	set, err := strconv.ParseBool(fmt.Sprint(k.Options["prefer-bundled-bin"]))
	return err == nil && set
}

// linkPlugins makes dir hold links to the network plugins of a release's bin
// folder: the program cni, and the links to it.
func linkPlugins(dir, bin string) error {
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return err
	}
	return linkInto(dir, bin, func(name string) bool {
		to, err := os.Readlink(filepath.Join(bin, name))
		return name == "cni" || err == nil && to == "cni"
	})
}

// k3sProgram returns where the image has k3s.
func k3sProgram() (string, error) {
	for _, p := range k3sPrograms {
		if _, err := os.Stat(p); err == nil {
			return p, nil
		}
	}
	return "", fmt.Errorf("the image has no k3s at %v", k3sPrograms)
}

// waitVolume waits for the volume, however long it takes: k3s on the memory
// beneath would begin another life.
func waitVolume(out io.Writer) error {
	said := ""
	for {
		v, err := readVolume()
		if err != nil {
			return err
		}
		if v.Mounted {
			return nil
		}
		if v.Waiting != said {
			said = v.Waiting
			fmt.Fprintf(out, "pikelet: k3s waits for the volume: %s\n", said)
		}
		time.Sleep(time.Second)
	}
}

// waitTime waits until a time server set the clock.
func waitTime(limit time.Duration) (waited time.Duration, ok bool) {
	start := time.Now()
	for {
		if synchronised() {
			return time.Since(start), true
		}
		if time.Since(start) >= limit {
			return time.Since(start), false
		}
		time.Sleep(time.Second)
	}
}

// synchronised says whether something keeps the kernel's clock right; chronyd
// tells the kernel so.
func synchronised() bool {
	var t unix.Timex
	if _, err := unix.Adjtimex(&t); err != nil {
		return false
	}
	return t.Status&unix.STA_UNSYNC == 0
}

// linkImages links the archives of container images that the image brings to
// where k3s imports them, and takes away links of earlier releases.
func linkImages() error {
	return linkInto(k3sData+"/agent/images", imageAirgap, all)
}

// placeManifests links the manifests of overlays to where k3s applies them,
// and their charts to where it serves them.
func placeManifests() error {
	return errors.Join(linkInto(k3sData+"/server/manifests", imageApplied, all), linkInto(k3sData+"/server/static/charts", imageCharts, all))
}

// all takes every file.
func all(string) bool { return true }

// linkInto makes dir hold a link to every file of from whose name is wanted,
// and no other links into it. What people put there themselves stays.
func linkInto(dir, from string, wanted func(name string) bool) error {
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return err
	}
	there, err := os.ReadDir(dir)
	if err != nil {
		return err
	}
	for _, e := range there {
		name := filepath.Join(dir, e.Name())
		if to, err := os.Readlink(name); err == nil && filepath.Dir(to) == from {
			if err := os.Remove(name); err != nil {
				return err
			}
		}
	}
	files, err := os.ReadDir(from)
	if errors.Is(err, os.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	for _, e := range files {
		if !wanted(e.Name()) {
			continue
		}
		if err := os.Symlink(filepath.Join(from, e.Name()), filepath.Join(dir, e.Name())); err != nil && !errors.Is(err, os.ErrExist) {
			return err
		}
	}
	return nil
}

// Package k3s is the service pikelet-k3s: it waits for what k3s needs, places what
// the image brings, keeps the datastore over upgrades, and becomes k3s.
package k3s

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"github.com/pikelet-os/pikelet/internal/device/agent/runfiles"
	"github.com/pikelet-os/pikelet/internal/shared/node"
	"github.com/pikelet-os/pikelet/internal/shared/nodeconfig"
)

// Where the k3s program is: as a package of Alpine's has it, or as the k3s
// overlay unpacks an upstream release.
var programs = []string{"/usr/lib/k3s/bin/k3s", "/usr/bin/k3s", "/usr/local/bin/k3s"}

// Where the image brings what k3s takes.
const (
	imageAirgap  = "/usr/share/k3s/images"
	imageApplied = "/usr/lib/pikelet/manifests"
	imageCharts  = "/usr/share/k3s/charts"
	// release is where the image has an unpacked release.
	release = "/usr/lib/k3s"
	// plugins is where the network plugins of pods are.
	plugins = node.K3sDir + "/data/cni"
)

// Run is the k3s service: it waits for volume and time, puts what the image
// brings into k3s' directories, and becomes k3s.
func Run(out io.Writer, log *slog.Logger) error {
	cfg, err := runfiles.Config()
	if err != nil {
		return err
	}
	if cfg.K3s.Role == "" {
		return errors.New("k3s.role of the node config is not set")
	}
	program, err := findProgram()
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
		fmt.Fprintf(out, "pikelet: no time server answered within %v; starting k3s with the time this node has: %s\n",
			limit, time.Now().UTC().Format(time.RFC3339))
	} else {
		fmt.Fprintf(out, "pikelet: the time is right, after %v\n", waited.Round(time.Second))
	}
	if err := linkImages(); err != nil {
		return err
	}
	if cfg.K3s.Role == "server" {
		if err := waitAlone(cfg, node.K3sServerDir, out); err != nil {
			return err
		}
		r := restoration{node.K3sServerDir, node.BackupProgram, node.BackupLock, out, log}
		if err := r.run(cfg.Restore); err != nil {
			return err
		}
		if err := startDatastore(cfg, program, log); err != nil {
			return err
		}
		if err := placeManifests(); err != nil { // into what has just been adopted
			return err
		}
	}
	env := os.Environ()
	if filepath.Dir(filepath.Dir(program)) == release {
		if err := linkPlugins(plugins, release+"/bin"); err != nil {
			return err
		}
		env = releaseEnv(env, bundledFirst(cfg.K3s))
	}
	return unix.Exec(program, []string{"k3s", cfg.K3s.Role}, env)
}

// releaseEnv returns the environment in which the wrapper of a release runs it
// once it has unpacked itself. k3s tells containerd that plugins are where PATH
// first has host-local, so plugins comes first: it can be written to, as
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
	list := []string{plugins, release + "/bin", system, release + "/bin/aux"}
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

// findProgram returns where the image has k3s.
func findProgram() (string, error) {
	for _, p := range programs {
		if _, err := os.Stat(p); err == nil {
			return p, nil
		}
	}
	return "", fmt.Errorf("k3s in the image, at %s: %w", strings.Join(programs, " or "), fs.ErrNotExist)
}

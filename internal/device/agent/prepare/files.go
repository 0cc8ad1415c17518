package prepare

import (
	"encoding/json"
	"errors"
	"os"
	"sort"
	"strings"

	"github.com/pikelet-os/pikelet/internal/device/agent/runfiles"
	"github.com/pikelet-os/pikelet/internal/device/agent/volume"
	"github.com/pikelet-os/pikelet/internal/device/etc"
	"github.com/pikelet-os/pikelet/internal/shared/node"
	"github.com/pikelet-os/pikelet/internal/shared/nodeconfig"
)

// refill writes /etc anew.
func refill(b node.Boot, cfg *nodeconfig.Config, id node.Identity, p *node.Prepared) error {
	consoles, err := activeConsoles()
	if err != nil {
		return err
	}
	files, problems, err := bootFiles(etc.Input{
		Config: cfg, Identity: id, Root: os.DirFS("/"), Feeder: b.Watchdog, Consoles: consoles, OpenRoot: runfiles.RootConsole(),
	})
	p.Problems = append(p.Problems, problems...)
	errs := []error{err}
	for _, f := range files {
		errs = append(errs, put(f))
	}
	return errors.Join(errs...)
}

// bootFiles returns what is written before anything starts: what the config
// makes of the root; the config itself, and the files that wait for the volume,
// both with secrets and for root only.
func bootFiles(in etc.Input) (files []etc.File, problems []string, err error) {
	all, problems := etc.Files(in)
	files, later := volume.SplitFiles(all)
	effective, err := in.Config.Encode()
	if err == nil {
		files = append(files, etc.File{Path: node.EffectiveFile, Content: string(effective), Mode: 0o600})
	}
	waiting, jsonErr := json.Marshal(later)
	if jsonErr == nil {
		files = append(files, etc.File{Path: volume.WaitingFile, Content: string(waiting), Mode: 0o600})
	}
	return files, problems, errors.Join(err, jsonErr)
}

// activeConsoles returns the consoles the kernel has, such as ttyAMA0.
func activeConsoles() ([]string, error) {
	b, err := os.ReadFile("/sys/class/tty/console/active")
	if err != nil {
		return nil, err
	}
	names := strings.Fields(string(b))
	sort.Strings(names)
	return names, nil
}

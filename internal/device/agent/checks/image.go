package checks

import (
	"context"
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"time"

	"github.com/pikelet-os/pikelet/internal/shared/node"
)

// checksDir is where an image brings checks of its own, by files: or overlays.
const checksDir = "/usr/lib/pikelet/checks.d"

// checkTime is how long one of them may take.
const checkTime = 20 * time.Second

// outsideStatus is the exit status of a check that fails for a reason outside
// the node: EX_TEMPFAIL of sysexits.h, "try again later".
const outsideStatus = 75

// ownChecks runs every program of a directory, all at once. The exit status says
// whether a check holds, and the last line it prints says why.
func ownChecks(ctx context.Context, dir string, limit time.Duration) []node.Check {
	files, err := os.ReadDir(dir)
	if errors.Is(err, os.ErrNotExist) {
		return nil
	}
	if err != nil {
		return []node.Check{{Name: filepath.Base(dir), Says: err.Error()}}
	}
	list := make([]node.Check, len(files))
	var group sync.WaitGroup
	for i, f := range files {
		group.Go(func() { list[i] = ownCheck(ctx, filepath.Join(dir, f.Name()), limit) })
	}
	group.Wait()
	return list
}

func ownCheck(ctx context.Context, name string, limit time.Duration) node.Check {
	c := node.Check{Name: filepath.Base(name)}
	ctx, stop := context.WithTimeout(ctx, limit)
	defer stop()
	cmd := exec.CommandContext(ctx, name)
	cmd.WaitDelay = time.Second // what it started may hold its output open
	out, err := cmd.CombinedOutput()
	lines := strings.Split(strings.TrimSpace(string(out)), "\n")
	c.Says = lines[len(lines)-1]
	c.Says = c.Says[:min(len(c.Says), 200)]
	var exit *exec.ExitError
	switch {
	case err == nil:
		c.OK = true
		return c
	case ctx.Err() != nil:
		err = errors.New("the check did not end within " + limit.String())
	case errors.As(err, &exit):
		c.Outside = exit.ExitCode() == outsideStatus
	}
	if c.Says == "" || exit == nil {
		c.Says = strings.TrimSpace(c.Says + " " + err.Error())
	}
	return c
}

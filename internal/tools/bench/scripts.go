package main

import (
	"context"
	"fmt"
	"os/exec"
	"path/filepath"
	"regexp"
	"strconv"
)

var shareDone = regexp.MustCompile(`share done: ([0-9.]+)`)

// scripts measures how many of the test scripts of builder/script are done with the
// tree and the status that a real busybox leaves, or refused for a good reason. The
// judge is Alpine's busybox where there is a root of Alpine's, and the starter's
// otherwise.
func scripts(ctx context.Context, o options, figures map[string]float64) error {
	args := []string{"test", "-count=1", "-v", "-timeout", "30m", "-run", "^TestStarterBusybox$", "./builder/script"}
	if o.alpine != "" {
		dir, err := filepath.Abs(o.alpine)
		if err != nil {
			return err
		}
		args = []string{"test", "-count=1", "-v", "-timeout", "30m", "-tags", "oracle", "-run", "^TestOracleBusybox$", "./builder/script",
			"-alpine", dir}
	}
	// The test fails where the share is too small, and still says it: a figure is one.
	out, failed := exec.CommandContext(ctx, "go", args...).CombinedOutput()
	found := shareDone.FindSubmatch(out)
	if found == nil {
		return fmt.Errorf("judging the scripts: %w\n%s", failed, out)
	}
	share, err := strconv.ParseFloat(string(found[1]), 64)
	if err != nil {
		return err
	}
	figures["scripts_done_ratio"] = share
	return nil
}

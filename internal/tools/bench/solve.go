package main

import (
	"context"
	"fmt"
	"os/exec"
	"path/filepath"
	"regexp"
	"strconv"
)

var perOp = regexp.MustCompile(`([0-9]+) ns/op`)

// solve measures the solver on Alpine's own index, which is no part of the
// project: a world of 109 packages, the index read afresh each time.
func solve(ctx context.Context, o options, figures map[string]float64) error {
	if o.alpine == "" {
		o.log.Info("solve_ms is left out: no directory with Alpine's index was given (make bench ALPINE=DIR)")
		return nil
	}
	dir, err := filepath.Abs(o.alpine)
	if err != nil {
		return err
	}
	out, err := exec.CommandContext(ctx, "go", "test", "-tags", "oracle", "-run", "^$",
		"-bench", "Solve", "-benchtime", fmt.Sprint(o.rounds, "x"), "./layers/apk", "-alpine", dir).CombinedOutput()
	found := perOp.FindSubmatch(out)
	if err != nil || found == nil {
		return fmt.Errorf("measuring the solver: %w\n%s", err, out)
	}
	ns, err := strconv.ParseFloat(string(found[1]), 64)
	figures["solve_ms"] = ns / 1e6
	return err
}

package main

import (
	"context"
	"fmt"
	"os/exec"
	"regexp"
	"strconv"
)

// backupFigures are the figures of BenchmarkJob, by the units that it reports.
var backupFigures = map[string]string{
	"s/backup": "backup_seconds", "MiB-peak": "backup_peak_mib", "uploaded/compressed": "bytes_uploaded_ratio",
}

var reported = regexp.MustCompile(`([0-9.]+(?:e[-+][0-9]+)?) ([^\s]+)`)

// state measures backups of a k3s server with a datastore of 200 MB: seconds, the
// memory of the process, and the bytes that reach the store beside those of the
// datastore compressed alone.
func state(ctx context.Context, o options, figures map[string]float64) error {
	out, err := exec.CommandContext(ctx, "go", "test", "-run", "^$", "-bench", "^BenchmarkJob$", "-benchtime", fmt.Sprint(o.rounds, "x"),
		"-timeout", "30m", "./internal/device/backup").CombinedOutput()
	if err != nil {
		return fmt.Errorf("backing up: %w\n%s", err, out)
	}
	found := 0
	for _, m := range reported.FindAllSubmatch(out, -1) {
		name, is := backupFigures[string(m[2])]
		if !is {
			continue
		}
		if figures[name], err = strconv.ParseFloat(string(m[1]), 64); err != nil {
			return err
		}
		found++
	}
	if found != len(backupFigures) {
		return fmt.Errorf("reading the figures of backups: got %d, want %d\n%s", found, len(backupFigures), out)
	}
	return nil
}

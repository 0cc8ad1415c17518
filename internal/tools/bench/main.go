// Command bench measures Pikelet side by side with its peers and writes
// bench.json. Every number is of this machine and this run.
package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"log/slog"
	"os"
	"os/exec"
	"path/filepath"
	"sort"
	"strings"
	"time"
)

// options say what is measured with what.
type options struct {
	out     string
	image   string // disk image that is booted
	pikelet string // the command
	starter string // repository of small packages
	bulk    string // and of large ones; "" leaves out what needs them
	large   string // directory with large programs and packages, in two versions each
	alpine  string // directory with Alpine's index and root; "" leaves out solve_ms, and the starter's busybox judges scripts
	rounds  int
	only    string // comma-separated names of groups; "" is all
	scratch string
	log     *slog.Logger
}

func main() {
	var o options
	flag.StringVar(&o.out, "o", "bench.json", "file the figures go to")
	flag.StringVar(&o.image, "image", "build/demo/disk.img", "disk image that is booted")
	flag.StringVar(&o.pikelet, "pikelet", "build/pikelet", "the command that is measured")
	flag.StringVar(&o.starter, "starter", "build/starter", "repository of the images that are built")
	flag.StringVar(&o.bulk, "bulk", "build/bulk", "repository of large packages")
	flag.StringVar(&o.large, "large", "build/large", "directory of what testdata/large makes")
	flag.StringVar(&o.alpine, "alpine", "",
		"directory with alpine-minirootfs-*-x86_64.tar.gz and APKINDEX-*-x86_64.tar.gz, for solve_ms and scripts_done_ratio")
	flag.IntVar(&o.rounds, "rounds", 5, "how often each is measured; figures are medians")
	flag.StringVar(&o.only, "only", "",
		"measure only these groups: boot, openrc, node, build, loop, solve, ship, update, netboot, delta, cluster, rollout, simulation, "+
			"scripts, state")
	pack := flag.String("squash", "", "only pack this directory into the file -o, as the builder's writer does")
	flag.Parse()
	err := func() error {
		if *pack != "" {
			return squash(*pack, o.out)
		}
		o.log = slog.New(slog.NewTextHandler(os.Stderr, nil))
		return run(o)
	}()
	if err != nil {
		fmt.Fprintln(os.Stderr, "bench:", err)
		os.Exit(1)
	}
}

// group is a set of figures that are measured together.
type group struct {
	name    string
	measure func(context.Context, options, map[string]float64) error
}

func groups() []group {
	return []group{
		{"boot", boots}, {"openrc", openrc}, {"node", node}, {"build", builds}, {"loop", loop}, {"solve", solve},
		{"ship", ship}, {"update", update}, {"netboot", netboot}, {"delta", deltas}, {"cluster", cluster}, {"rollout", rollout},
		{"simulation", simulation}, {"scripts", scripts}, {"state", state},
	}
}

// run measures group by group. Figures of groups that are not measured stay in
// the file as they are.
func run(o options) (err error) {
	figures := map[string]float64{}
	if b, err := os.ReadFile(o.out); err == nil && o.only != "" {
		if err := json.Unmarshal(b, &figures); err != nil {
			return fmt.Errorf("reading %s: %w", o.out, err)
		}
	}
	for _, name := range []*string{&o.pikelet, &o.starter, &o.bulk, &o.large} {
		if *name, err = filepath.Abs(*name); err != nil {
			return err
		}
	}
	if o.scratch, err = os.MkdirTemp("", "pikelet-bench-"); err != nil {
		return err
	}
	defer os.RemoveAll(o.scratch)
	ctx := context.Background()
	for _, group := range groups() {
		if o.only == "" || strings.Contains(","+o.only+",", ","+group.name+",") {
			if err := group.measure(ctx, o, figures); err != nil {
				return fmt.Errorf("%s: %w", group.name, err)
			}
		}
	}
	b, err := json.MarshalIndent(figures, "", "  ")
	if err != nil {
		return err
	}
	fmt.Println(string(b))
	return os.WriteFile(o.out, append(b, '\n'), 0o644)
}

// build runs pikelet build --quiet with more arguments in a directory, and returns
// how many seconds that took.
func build(ctx context.Context, o options, dir string, args ...string) (seconds float64, err error) {
	seconds, _, err = command(ctx, dir, append([]string{o.pikelet, "build", "-q"}, args...)...)
	return seconds, err
}

// signedBuild is build with the key and the cache that the groups share.
func signedBuild(ctx context.Context, o options, out, spec string) error {
	_, err := build(ctx, o, o.scratch, "--sign-key", "ship.key", "--cache", "cache", "-o", out, spec)
	return err
}

// publishArgs returns the command that publishes the image in a directory to a
// repository of a registry without TLS.
func publishArgs(o options, repo, img string, more ...string) []string {
	return append([]string{o.pikelet, "publish", repo, "--plain-http", "--key", "ship.pub", "--image", img}, more...)
}

// command runs a program and returns how long it took, in seconds, and what it
// said.
func command(ctx context.Context, dir string, args ...string) (seconds float64, said string, err error) {
	cmd := exec.CommandContext(ctx, args[0], args[1:]...)
	cmd.Dir = dir
	var out bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &out
	start := time.Now()
	if err := cmd.Run(); err != nil {
		return 0, "", fmt.Errorf("%s: %w\n%s", strings.Join(args, " "), err, out.Bytes())
	}
	return time.Since(start).Seconds(), out.String(), nil
}

func median(list []float64) float64 {
	list = append([]float64(nil), list...)
	sort.Float64s(list)
	return list[len(list)/2]
}

// pair is one thing done by two.
type pair struct{ ours, peers []float64 }

func (p pair) ratio() float64 { return median(p.ours) / median(p.peers) }

func (p pair) String() string { return fmt.Sprintf("ours %.2f s, peer %.2f s", p.ours, p.peers) }

var errMissing = errors.New("missing")

package main

import (
	"context"
	"fmt"
	"os/exec"
	"regexp"
	"strconv"
	"strings"
	"time"

	"github.com/pikelet-os/pikelet/builder/deviceprogs"
	"github.com/pikelet-os/pikelet/internal/testing/vm"
)

// boots measures the demo image: the size of /init and how long it boots.
func boots(ctx context.Context, o options, figures map[string]float64) error {
	programs, err := deviceprogs.Load()
	if err != nil {
		return err
	}
	size, err := zstdSize(programs.Init)
	if err != nil {
		return err
	}
	figures["init_zstd_bytes"] = float64(size)
	var inits, demos []float64
	for range 3 {
		i, d, err := boot(ctx, o.image)
		if err != nil {
			return err
		}
		inits, demos = append(inits, i), append(demos, d)
	}
	figures["init_seconds"], figures["demo_boot_seconds"] = median(inits), median(demos)
	return nil
}

// zstdSize returns the bytes of a program compressed as the peer's tool does
// it at its highest ordinary level.
func zstdSize(program []byte) (int, error) {
	cmd := exec.Command("zstd", "-19", "-c")
	cmd.Stdin = strings.NewReader(string(program))
	b, err := cmd.Output()
	return len(b), err
}

var initTook = regexp.MustCompile(`init took ([0-9.]+) s`)

// boot boots the demo image to its prompt and returns the seconds /init says
// it took, and those from the firmware's start to the prompt.
func boot(ctx context.Context, image string) (init, login float64, err error) {
	start := time.Now()
	m, err := vm.Start(ctx, vm.Options{Image: image, Snapshot: true})
	if err != nil {
		return 0, 0, err
	}
	defer m.Close()
	if err := m.Expect(":~# "); err != nil {
		return 0, 0, fmt.Errorf("%w\n%s", err, m.Output())
	}
	login = time.Since(start).Seconds()
	found := initTook.FindStringSubmatch(m.Output())
	if found == nil {
		return 0, 0, fmt.Errorf("/init did not say how long it took:\n%s", m.Output())
	}
	init, err = strconv.ParseFloat(found[1], 64)
	return init, login, err
}

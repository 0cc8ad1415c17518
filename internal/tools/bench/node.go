package main

import (
	"context"
	"fmt"
	"path/filepath"
	"regexp"
	"strconv"
	"time"

	"github.com/pikelet-os/pikelet/internal/host/provision"
	"github.com/pikelet-os/pikelet/internal/shared/nodeconfig"
	"github.com/pikelet-os/pikelet/internal/testing/vm"
)

// idleFor is how long a node does nothing while what it writes is counted.
const idleFor = 10 * time.Minute

// settle is how long it gets to finish what its start began.
const settle = time.Minute

// node measures a node that has nothing to do: what it writes to its card,
// how large pikeletd is, and how long preparing took, on the first boot and on
// later ones.
func node(ctx context.Context, o options, figures map[string]float64) error {
	out := filepath.Join(o.scratch, "node")
	if _, _, err := command(ctx, ".", o.pikelet, "build", "--quiet", "-o", out, "internal/testing/e2e/testdata/node.yaml"); err != nil {
		return err
	}
	card := filepath.Join(out, "disk.img")
	if err := provision.Write(card, &nodeconfig.Config{Hostname: "idle"}); err != nil {
		return err
	}
	var prepared []float64
	for range 4 {
		m, err := vm.Start(ctx, vm.Options{Image: card})
		if err != nil {
			return err
		}
		seconds, err := ask(m, `grep '"seconds"' /run/pikelet/prepare.json`, `"seconds": ([0-9.]+)`)
		if err == nil {
			_, err = m.Write([]byte("poweroff\n"))
		}
		if err == nil {
			err = m.Wait()
		}
		m.Close()
		if err != nil {
			return err
		}
		prepared = append(prepared, seconds)
	}
	figures["first_prepare_seconds"], figures["prepare_seconds"] = prepared[0], median(prepared[1:])
	o.log.Info("measured preparing", "seconds", prepared)

	m, err := vm.Start(ctx, vm.Options{Image: card})
	if err != nil {
		return err
	}
	defer m.Close()
	const sectors = `awk '{print "sectors=" $7}' /sys/block/vda/stat`
	if _, err := ask(m, "true; echo settled=1", "settled=([0-9]+)\r"); err != nil {
		return err
	}
	o.log.Info("measuring an idle node", "for", settle+idleFor)
	time.Sleep(settle)
	before, err := ask(m, sectors, "sectors=([0-9]+)\r")
	if err != nil {
		return err
	}
	time.Sleep(idleFor)
	after, err := ask(m, sectors, "sectors=([0-9]+)\r")
	if err != nil {
		return err
	}
	rss, err := ask(m, "grep VmRSS /proc/$(pidof pikeletd)/status", `VmRSS:\s+([0-9]+) kB`)
	if err != nil {
		return err
	}
	figures["idle_card_bytes_10min"] = (after - before) * 512
	figures["pikeletd_rss_mib"] = rss / 1024
	return nil
}

// ask runs a command at the guest's prompt and returns the number that its
// answer holds.
func ask(m *vm.Machine, command, answer string) (float64, error) {
	before := len(m.Output())
	if before == 0 {
		if err := m.Expect(":~# "); err != nil {
			return 0, fmt.Errorf("%w\n%s", err, m.Output())
		}
		before = len(m.Output())
	}
	if _, err := m.Write([]byte(command + "\n")); err != nil {
		return 0, err
	}
	re := regexp.MustCompile(answer)
	for start := time.Now(); time.Since(start) < time.Minute; time.Sleep(50 * time.Millisecond) {
		if found := re.FindStringSubmatch(m.Output()[before:]); found != nil {
			return strconv.ParseFloat(found[1], 64)
		}
	}
	return 0, fmt.Errorf("%s: no answer like %s:\n%s", command, answer, m.Output()[before:])
}

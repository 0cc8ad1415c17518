// Command bench measures Pikelet side by side with its peers and writes
// bench.json. Every number is of this machine and this run.
package main

import (
	"context"
	"encoding/json"
	"flag"
	"fmt"
	"os"
	"os/exec"
	"regexp"
	"sort"
	"strconv"
	"strings"
	"time"

	"github.com/pikelet-os/pikelet/builder/device"
	"github.com/pikelet-os/pikelet/internal/vm"
)

func main() {
	out := flag.String("o", "bench.json", "file the figures go to")
	image := flag.String("image", "build/demo/disk.img", "disk image that is booted")
	boots := flag.Int("boots", 3, "how often it is booted; figures are medians")
	pack := flag.String("squash", "", "only pack this folder into the file -o, as the builder's writer does")
	flag.Parse()
	if *pack != "" {
		if err := squash(*pack, *out); err != nil {
			fmt.Fprintln(os.Stderr, "bench:", err)
			os.Exit(1)
		}
		return
	}
	if err := run(*out, *image, *boots); err != nil {
		fmt.Fprintln(os.Stderr, "bench:", err)
		os.Exit(1)
	}
}

func run(out, image string, boots int) error {
	figures := map[string]float64{}
	programs, err := device.Load()
	if err != nil {
		return err
	}
	size, err := zstdSize(programs.Init)
	if err != nil {
		return err
	}
	figures["init_zstd_bytes"] = float64(size)
	var inits, demos []float64
	for range boots {
		i, d, err := boot(image)
		if err != nil {
			return err
		}
		inits, demos = append(inits, i), append(demos, d)
	}
	figures["init_seconds"] = median(inits)
	figures["demo_boot_seconds"] = median(demos)
	b, err := json.MarshalIndent(figures, "", "  ")
	if err != nil {
		return err
	}
	fmt.Println(string(b))
	return os.WriteFile(out, append(b, '\n'), 0o644)
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
func boot(image string) (init, login float64, err error) {
	start := time.Now()
	m, err := vm.Start(context.Background(), vm.Options{Image: image, Snapshot: true})
	if err != nil {
		return 0, 0, err
	}
	defer m.Close()
	if err := m.Expect(":~# ", 3*time.Minute); err != nil {
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

func median(list []float64) float64 {
	sort.Float64s(list)
	return list[len(list)/2]
}

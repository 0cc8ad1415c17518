package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/pikelet-os/pikelet/internal/shared/bootapi"
	"github.com/pikelet-os/pikelet/internal/shared/image"
	"github.com/pikelet-os/pikelet/internal/testing/vm"
)

// netboot measures the boot server: TFTP against dnsmasq and atftpd, with one
// client and with fifty, its boot plane against nginx, its memory while a
// hundred nodes start, and one netbooted node.
func netboot(ctx context.Context, o options, figures map[string]float64) error {
	if err := prepareBulk(ctx, o); err != nil {
		return err
	}
	img := o.scratch + "/shipped/artifact"
	m, dir, err := rootOf(o, img)
	if err != nil {
		return err
	}
	one, fifty, web := map[string][]float64{}, map[string][]float64{}, map[string][]float64{}
	files := []string{image.KernelFile, image.InitramfsFile}
	var often []string
	for range 4 {
		often = append(often, files...)
	}
	for round := range 2 * o.rounds {
		list := peersOf(o, dir, img)
		for i := range list {
			s := list[(round+i)%len(list)] // whoever goes first has no advantage of it
			stop, err := s.start(ctx)
			if err != nil {
				return fmt.Errorf("%s: %w", s.name, err)
			}
			err = func() error {
				defer stop()
				if s.page != nil {
					speed, err := httpSpeed(ctx, s.page(m))
					if err != nil {
						return err
					}
					web[s.name] = append(web[s.name], speed)
				}
				if !s.tftp.IsValid() {
					return nil
				}
				named := func(client int, list []string) (out []string) {
					for _, f := range list {
						out = append(out, s.prefix(client)+f)
					}
					return out
				}
				speed, err := tftpSpeed(s.tftp, 1, func(c int) []string { return named(c, often) })
				if err != nil {
					return err
				}
				one[s.name] = append(one[s.name], speed)
				speed, err = tftpSpeed(s.tftp, 50, func(c int) []string { return named(c, files) })
				fifty[s.name] = append(fifty[s.name], speed)
				return err
			}()
			if err != nil {
				return fmt.Errorf("%s: %w", s.name, err)
			}
		}
	}
	for _, g := range []struct {
		figure string
		speeds map[string][]float64
	}{{"tftp_ratio", one}, {"tftp50_ratio", fifty}, {"http_ratio", web}} {
		best := 0.0
		for name, list := range g.speeds {
			o.log.Info("measured a server", "figure", g.figure, "server", name, "bytes_per_second", median(list))
			if name != ours {
				best = max(best, median(list))
			}
		}
		figures[g.figure] = median(g.speeds[ours]) / best
	}
	if figures["serve_100_nodes_mib"], err = hundred(ctx, o, img, m); err != nil {
		return fmt.Errorf("a hundred nodes: %w", err)
	}
	return netbooted(ctx, o, figures)
}

const ours = "pikelet serve"

// server is one that is measured.
type server struct {
	name   string
	start  func(context.Context) (stop func(), err error)
	tftp   netip.AddrPort                 // zero for none
	prefix func(client int) string        // before a file's name
	page   func(m *image.Manifest) string // the address of the root; nil for none
}

// rootOf lays an image's files out as a TFTP or web server has them.
func rootOf(o options, img string) (*image.Manifest, string, error) {
	text, err := os.ReadFile(filepath.Dir(img) + "/manifest.json")
	if err != nil {
		return nil, "", err
	}
	m, err := image.DecodeManifest(text)
	if err != nil {
		return nil, "", err
	}
	dir := o.scratch + "/peer"
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return nil, "", err
	}
	for _, name := range []string{image.KernelFile, image.InitramfsFile, image.RootFile} {
		f, ok := m.File(name)
		if !ok {
			return nil, "", fmt.Errorf("%w: %s of the image", errMissing, name)
		}
		// Hard links: both servers read the very same pages.
		blob := img + "/blobs/sha256/" + strings.TrimPrefix(f.Digest, "sha256:")
		if err := os.Link(blob, filepath.Join(dir, name)); err != nil && !errors.Is(err, os.ErrExist) {
			return nil, "", err
		}
	}
	return m, dir, os.Chmod(o.scratch, 0o755)
}

// nginxConf serves one directory as fast as nginx can: a single process that
// logs nothing.
const nginxConf = `daemon off; master_process off; pid %[1]s/nginx.pid; error_log /dev/null;
events {}
http { access_log off; sendfile on; server { listen 127.0.0.1:8079; root %[2]s; } }
`

// peersOf returns the servers: ours, and those that do a part of it.
func peersOf(o options, dir, img string) []server {
	none := func(int) string { return "" }
	return []server{
		{
			name: ours, tftp: netip.MustParseAddrPort("127.0.0.1:69"),
			start:  func(ctx context.Context) (func(), error) { _, stop, err := serve(ctx, o, img); return stop, err },
			prefix: func(c int) string { return fmt.Sprintf("%08x/", serialOf(c)) },
			page:   func(m *image.Manifest) string { return rootURL(m, 0) },
		},
		{
			name: "dnsmasq", tftp: netip.MustParseAddrPort("127.0.0.1:69"), prefix: none,
			start: daemon("udp", "127.0.0.1:69", "dnsmasq", "--keep-in-foreground", "--conf-file=/dev/null", "--port=0",
				"--listen-address=127.0.0.1", "--bind-interfaces", "--pid-file=", "--user=root", "--log-facility=/dev/null",
				"--enable-tftp", "--tftp-root="+dir, "--tftp-max=200", "--quiet-tftp"),
		},
		{
			name: "atftpd", tftp: netip.MustParseAddrPort("127.0.0.1:6969"), prefix: none,
			start: daemon("udp", "127.0.0.1:6969", "atftpd", "--daemon", "--no-fork",
				"--bind-address", "127.0.0.1", "--port", "6969", "--maxthread", "200",
				"--user", "root", "--group", "root", "--verbose=0", "--logfile", "/dev/null", dir),
		},
		{
			name: "nginx", page: func(*image.Manifest) string { return "http://127.0.0.1:8079/" + image.RootFile },
			start: func(ctx context.Context) (func(), error) {
				conf := fmt.Sprintf(nginxConf, o.scratch, dir)
				if err := os.WriteFile(o.scratch+"/nginx.conf", []byte(conf), 0o644); err != nil {
					return nil, err
				}
				return daemon("tcp", "127.0.0.1:8079", "nginx", "-c", o.scratch+"/nginx.conf", "-e", "/dev/null")(ctx)
			},
		},
	}
}

// daemon returns what starts a program in the foreground and waits for its
// socket.
func daemon(network, at string, args ...string) func(context.Context) (func(), error) {
	return func(ctx context.Context) (func(), error) {
		cmd := exec.CommandContext(ctx, args[0], args[1:]...)
		var said bytes.Buffer
		cmd.Stdout, cmd.Stderr = &said, &said
		if err := cmd.Start(); err != nil {
			return nil, err
		}
		stop := func() { cmd.Process.Kill(); cmd.Wait() }
		for start := time.Now(); time.Since(start) < 10*time.Second; time.Sleep(20 * time.Millisecond) {
			if listens(network, at) {
				return stop, nil
			}
		}
		stop()
		return nil, fmt.Errorf("the server does not listen on %s: %s", at, said.Bytes())
	}
}

// listens reports whether a port is taken: it cannot be bound again then.
func listens(network, at string) bool {
	if network == "tcp" {
		c, err := net.Dial(network, at)
		if err == nil {
			c.Close()
		}
		return err == nil
	}
	c, err := net.ListenPacket(network, at)
	if err == nil {
		c.Close()
	}
	return err != nil
}

func serialOf(client int) int { return 0x1000 + client }

// serve starts a boot server on loopback for a hundred nodes.
func serve(ctx context.Context, o options, img string) (pid int, stop func(), err error) {
	nodes := "nodes:\n"
	for c := range 100 {
		nodes += fmt.Sprintf("- serial: '%08x'\n", serialOf(c))
	}
	if err := os.WriteFile(o.scratch+"/nodes.yaml", []byte(nodes), 0o644); err != nil {
		return 0, nil, err
	}
	cmd := exec.CommandContext(ctx, o.pikelet, "serve", img, "--inventory", o.scratch+"/nodes.yaml", "--interface", "lo", "--proxy",
		"--cache", o.scratch+"/cache", "--state", o.scratch+"/state", "--admin", "off")
	var said bytes.Buffer
	cmd.Stdout, cmd.Stderr = &said, &said
	if err := cmd.Start(); err != nil {
		return 0, nil, err
	}
	stop = func() { cmd.Process.Kill(); cmd.Wait() }
	for start := time.Now(); time.Since(start) < time.Minute; time.Sleep(20 * time.Millisecond) {
		if listens("tcp", fmt.Sprintf("127.0.0.1:%d", bootapi.Port)) {
			return cmd.Process.Pid, stop, nil
		}
	}
	stop()
	return 0, nil, fmt.Errorf("the server does not start: %s", said.Bytes())
}

// rootURL is where a node has the root from.
func rootURL(m *image.Manifest, client int) string {
	f, _ := m.File(image.RootFile)
	machine := bootapi.Machine{Serial: fmt.Sprintf("%08x", serialOf(client)), MAC: "d8:3a:dd:00:00:01", Build: m.BuildID}
	q := bootapi.Request{Kind: bootapi.Blob, Digest: f.Digest, Machine: machine}
	return fmt.Sprintf("http://127.0.0.1:%d%s", bootapi.Port, q.Encode())
}

// httpSpeed has curl fetch a file ten times on one connection, and returns
// bytes a second.
func httpSpeed(ctx context.Context, url string) (float64, error) {
	args := []string{"curl", "-sSf"}
	for range 10 {
		args = append(args, "-w", "%{size_download}\n", "-o", "/dev/null", url)
	}
	seconds, said, err := command(ctx, ".", args...)
	if err != nil {
		return 0, err
	}
	bytes := 0.0
	for _, line := range strings.Fields(said) {
		n, err := strconv.ParseFloat(line, 64)
		if err != nil {
			return 0, err
		}
		bytes += n
	}
	if bytes < 10<<20 {
		return 0, fmt.Errorf("%s: %.0f bytes came", url, bytes)
	}
	return bytes / seconds, nil
}

// hundred returns the peak memory of a server, in MiB, while a hundred nodes
// have their firmware's files and the root, all at the same time.
func hundred(ctx context.Context, o options, img string, m *image.Manifest) (float64, error) {
	pid, stop, err := serve(ctx, o, img)
	if err != nil {
		return 0, err
	}
	defer stop()
	if _, err := tftpSpeed(netip.MustParseAddrPort("127.0.0.1:69"), 100, func(c int) []string {
		return []string{fmt.Sprintf("%08x/%s", serialOf(c), image.KernelFile), fmt.Sprintf("%08x/%s", serialOf(c), image.InitramfsFile)}
	}); err != nil {
		return 0, err
	}
	var group sync.WaitGroup
	failed := make(chan error, 100)
	for c := range 100 {
		group.Go(func() {
			from := &net.TCPAddr{IP: clientAddr(c).AsSlice()}
			client := http.Client{Transport: &http.Transport{DialContext: (&net.Dialer{LocalAddr: from}).DialContext}}
			r, err := client.Get(rootURL(m, c))
			if err == nil {
				_, err = io.Copy(io.Discard, r.Body)
				r.Body.Close()
			}
			if err == nil && r.StatusCode != http.StatusOK {
				err = errors.New(r.Status)
			}
			if err != nil {
				failed <- err
			}
		})
	}
	group.Wait()
	select {
	case err := <-failed:
		return 0, err
	default:
		return peakOf(pid)
	}
}

// peakOf returns the most memory a process had, in MiB.
func peakOf(pid int) (float64, error) {
	b, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", pid))
	if err != nil {
		return 0, err
	}
	found := highWater.FindSubmatch(b)
	if found == nil {
		return 0, fmt.Errorf("%w: VmHWM", errMissing)
	}
	kib, err := strconv.ParseFloat(string(found[1]), 64)
	return kib / 1024, err
}

// netbooted starts the demo image on a machine without a card: how long it takes
// from power to its prompt, and how many bytes it had before the root.
func netbooted(ctx context.Context, o options, figures map[string]float64) error {
	artifactDir, err := filepath.Abs(filepath.Dir(o.image) + "/artifact")
	if err != nil {
		return err
	}
	// An image that weighs what a node of k3s does, with the memory of a small
	// Pi: it runs, and this is what is left.
	_, _, left, err := netbootOnce(ctx, o, o.scratch+"/shipped/artifact", 1024)
	if err != nil {
		return fmt.Errorf("1 GiB: %w", err)
	}
	figures["netboot_1gib_available_mib"] = left
	var took, before []float64
	for range 3 {
		seconds, bytes, _, err := netbootOnce(ctx, o, artifactDir, 0)
		if err != nil {
			return err
		}
		took, before = append(took, seconds), append(before, bytes)
	}
	o.log.Info("measured a network boot", "seconds", took, "bytes_before_root", before)
	figures["netboot_seconds"], figures["netboot_bytes_before_root"] = median(took), median(before)
	return nil
}

func netbootOnce(ctx context.Context, o options, img string, memory int) (seconds, before, left float64, err error) {
	l, err := vm.NewLAN()
	if err != nil {
		return 0, 0, 0, err
	}
	defer l.Close()
	rom, tap, err := l.Pi("4", 0x52617370)
	if err != nil {
		return 0, 0, 0, err
	}
	if err := os.WriteFile(o.scratch+"/one.yaml", []byte("nodes: [{serial: '52617370', console: root}]\n"), 0o644); err != nil {
		return 0, 0, 0, err
	}
	var said bytes.Buffer
	cmd := l.Command(l.Name, o.pikelet, "serve", img, "--inventory", o.scratch+"/one.yaml",
		"--interface", l.Device, "--pool", "10.77.0.50-10.77.0.99",
		"--cache", o.scratch+"/cache", "--state", o.scratch+"/netbooted")
	cmd.Stdout, cmd.Stderr = &said, &said
	if err := cmd.Start(); err != nil {
		return 0, 0, 0, err
	}
	defer func() { cmd.Process.Kill(); cmd.Wait() }()
	metrics := func() (string, error) {
		b, err := l.Command(l.Name, "curl", "-sSf", "--retry", "20", "--retry-connrefused", "--retry-delay", "1",
			"http://127.0.0.1:8070/metrics").Output()
		return string(b), err
	}
	if _, err := metrics(); err != nil {
		return 0, 0, 0, fmt.Errorf("%w: %s", err, said.String())
	}
	start := time.Now()
	m, err := vm.Start(ctx, vm.Options{Net: rom, Tap: tap, Namespace: l.Name, Serial: "1000000052617370", Memory: memory})
	if err != nil {
		return 0, 0, 0, err
	}
	defer m.Close()
	if err := m.Expect(":~# "); err != nil {
		return 0, 0, 0, fmt.Errorf("%w\n%s\n%s", err, m.Output(), said.String())
	}
	seconds = time.Since(start).Seconds()
	if left, err = ask(m, `awk '/MemAvailable/ {print "left=" $2}' /proc/meminfo`, `left=([0-9]+)`); err != nil {
		return 0, 0, 0, err
	}
	left /= 1024
	text, err := metrics()
	if err != nil {
		return 0, 0, 0, err
	}
	found := regexp.MustCompile(`(?m)^pikelet_serve_tftp_bytes_total (\d+)$`).FindStringSubmatch(text)
	if found == nil {
		return 0, 0, 0, fmt.Errorf("%w: the bytes sent over TFTP", errMissing)
	}
	before, err = strconv.ParseFloat(found[1], 64)
	for _, name := range []string{"manifest.json", "signature.json"} { // which /init fetches first
		if st, e := os.Stat(filepath.Join(filepath.Dir(img), name)); e == nil {
			before += float64(st.Size())
		} else {
			err = e
		}
	}
	return seconds, before, left, err
}

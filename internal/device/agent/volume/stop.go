package volume

import (
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"sort"
	"strconv"
	"strings"
	"sync"
	"time"

	"golang.org/x/sys/unix"

	"github.com/pikelet-os/pikelet/internal/device/agent/feeder"
	"github.com/pikelet-os/pikelet/internal/device/agent/iscsi"
	"github.com/pikelet-os/pikelet/internal/device/agent/luks"
	"github.com/pikelet-os/pikelet/internal/device/agent/mounts"
	"github.com/pikelet-os/pikelet/internal/device/agent/runfiles"
	"github.com/pikelet-os/pikelet/internal/shared/node"
	"github.com/pikelet-os/pikelet/internal/shared/nodeconfig"
)

// How long stopping takes at most: programs get termTime to end by
// themselves, and the volume flushTime to take what is not written yet. A
// target that does not answer by then is given up: a node must be able to
// reboot while its NAS is down.
const (
	termTime  = 10 * time.Second
	killTime  = 2 * time.Second
	flushTime = 35 * time.Second
	// logoutTime is for what has a limit of its own, and is not waited for as
	// a whole: iscsiadm's logouts.
	logoutTime = 30 * time.Second
)

// signEvery is how often a trial that stops says that it is alive. The feeder
// of the watchdog restarts a trial that is silent for a minute, and pikeletd
// has stopped already.
const signEvery = 10 * time.Second

// stopLimit returns how long Stop takes at most.
func stopLimit(grace time.Duration) time.Duration {
	return grace + termTime + killTime + flushTime + flushTime/3 + logoutTime
}

// signsOfLife calls alive now and every signEvery until stop is called, or
// until limit is over: what hangs for longer is the feeder's to end.
func signsOfLife(alive func(), limit time.Duration) (stop func()) {
	done := make(chan struct{})
	var ended sync.WaitGroup
	ended.Go(func() {
		tick := time.NewTicker(signEvery)
		defer tick.Stop()
		for end := time.After(limit); ; {
			alive()
			select {
			case <-tick.C:
			case <-end:
				return
			case <-done:
				return
			}
		}
	})
	return func() { close(done); ended.Wait() }
}

// stopped is what a volume waits for that was closed on purpose.
const stopped = "the volume service was stopped"

// Stop is the stop of the volume service: it ends what still uses the
// volume, unmounts it, and only then logs out. Network and iscsid are still
// there.
func Stop(out io.Writer) error {
	unlock, err := runfiles.Lock("/run/pikelet/volume.lock")
	if err != nil {
		return err
	}
	defer unlock()
	v, err := runfiles.Volume()
	if err != nil {
		return err
	}
	grace := podGrace()
	if b, err := runfiles.Boot(); err == nil {
		defer signsOfLife(func() { feeder.Alive(b) }, stopLimit(grace))()
	}
	endContainers(cgroupRoot, grace, out)
	endUsers(unix.SIGTERM, termTime)
	endUsers(unix.SIGKILL, killTime)
	flushed := make(chan error, 1)
	go func() { flushed <- flush(v) }()
	select {
	case err = <-flushed:
	case <-time.After(flushTime):
		fmt.Fprintf(out, "pikelet: the volume did not take its last writes within %v; giving them up\n", flushTime)
		iscsi.GiveUp(out)
		select {
		case err = <-flushed:
		case <-time.After(flushTime / 3):
			err = errors.New("the volume can't be unmounted")
		}
	}
	v.Mounted, v.Waiting = false, stopped
	if err == nil && (v.On == nodeconfig.OnISCSI || len(iscsi.LUNs()) > 0) {
		var cfg *nodeconfig.Config
		if cfg, err = runfiles.Config(); err == nil {
			err = iscsi.Logout(cfg)
		}
	}
	return errors.Join(err, runfiles.SetVolume(v))
}

// prefixes are the directories in which what uses the volume mounts.
func prefixes() []string {
	list := []string{"/run/k3s", "/run/containerd"}
	for _, w := range node.WritablePaths() {
		if w.Place == node.Volume {
			list = append(list, w.Path)
		}
	}
	return append(list, node.VolumeDir)
}

func inVolume(path string) bool {
	for _, p := range prefixes() {
		if path == p || strings.HasPrefix(path, p+"/") {
			return true
		}
	}
	return false
}

// endUsers signals every process that has something of the volume open, and
// waits until none is left, for a while.
func endUsers(signal unix.Signal, limit time.Duration) {
	signalled := map[int]bool{}
	for deadline := time.Now().Add(limit); ; time.Sleep(100 * time.Millisecond) {
		users := users()
		if len(users) == 0 || time.Now().After(deadline) {
			return
		}
		for _, pid := range users {
			if !signalled[pid] {
				signalled[pid] = true
				unix.Kill(pid, signal)
			}
		}
	}
}

// users returns the processes that have something of the volume open:
// by their files, their directory, their program, and containers' shims.
func users() []int {
	all, _ := filepath.Glob("/proc/[0-9]*")
	var list []int
	for _, p := range all {
		pid, err := strconv.Atoi(filepath.Base(p))
		if err != nil || pid == 1 || pid == os.Getpid() {
			continue
		}
		names := []string{p + "/cwd", p + "/root", p + "/exe"}
		fds, _ := filepath.Glob(p + "/fd/*")
		uses := false
		for _, n := range append(names, fds...) {
			to, err := os.Readlink(n)
			uses = uses || err == nil && (inVolume(to) || n == p+"/exe" && strings.HasPrefix(filepath.Base(to), "containerd-shim"))
		}
		if uses {
			list = append(list, pid)
		}
	}
	return list
}

// unmount unmounts everything on the volume, innermost first.
func unmount() error {
	var errs []error
	list, err := mounts.List()
	if err != nil {
		return err
	}
	var points []string
	for _, m := range list {
		if inVolume(m.Path) {
			points = append(points, m.Path)
		}
	}
	sort.SliceStable(points, func(i, j int) bool { return len(points[i]) > len(points[j]) })
	for _, p := range points {
		if p == node.VolumeDir {
			continue // last, when nothing on it is mounted any more
		}
		if err := unix.Unmount(p, 0); err != nil && !errors.Is(err, unix.EINVAL) {
			if err := unix.Unmount(p, unix.MNT_DETACH); err != nil {
				errs = append(errs, fmt.Errorf("unmounting %s: %w", p, err))
			}
		}
	}
	if mounts.Mounted(node.VolumeDir) {
		if err := unix.Unmount(node.VolumeDir, 0); err != nil {
			errs = append(errs, fmt.Errorf("unmounting the volume: %w", err))
		}
	}
	return errors.Join(errs...)
}

// flush unmounts the volume, and returns when all that was written is on its
// disk. An encrypted one is closed in between.
func flush(v node.VolumeStatus) error {
	errs := []error{unmount()}
	if l := luks.Cryptsetup(); l.IsOpen() {
		waitReleased(luks.Mapping)
		errs = append(errs, l.Close())
	}
	waitReleased(v.Device)
	return errors.Join(errs...)
}

// waitReleased waits until the kernel lets go of a disk; "" is none. A process
// that hangs in a write keeps a filesystem alive when its mounts are gone
// already, and logging out then would lose what it still has to write.
func waitReleased(device string) {
	for device != "" {
		fd, err := unix.Open(device, unix.O_RDONLY|unix.O_EXCL|unix.O_CLOEXEC, 0)
		if err == nil {
			unix.Close(fd)
			return
		}
		if !errors.Is(err, unix.EBUSY) {
			return // it is gone
		}
		time.Sleep(200 * time.Millisecond)
	}
}

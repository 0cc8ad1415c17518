package cli

import (
	"bytes"
	"encoding/json"
	"fmt"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/pikelet-os/pikelet/internal/shared/disk"
	"github.com/pikelet-os/pikelet/internal/testing/registrytest"
)

// sameCard compares a card with the disk image of the build.
func sameCard(t *testing.T, dir, card string) {
	t.Helper()
	must(t, dir, "cmp -n $(stat -c %s one/disk.img) "+card+" one/disk.img")
}

// TestFlashOntoFiles flashes from everything an image can be in onto new files.
// The card is the disk image of the build, byte for byte.
func TestFlashOntoFiles(t *testing.T) {
	dir := shippedIn(t)
	ok(t, dir, "pull", "one", "-o", "a.tar")
	must(t, dir, "zstd -q one/disk.img -o one.img.zst")
	s := startRegistry(t, registrytest.Options{})
	ok(t, dir, "publish", s.Addr+"/twin", "--plain-http", "--image", "one")
	flags := []string{"--key", "ci.pub", "--plain-http"}
	for i, from := range []string{"one", "one/artifact", "one/disk.img", "one.img.zst", "a.tar", s.Addr + "/twin:1.0"} {
		card := fmt.Sprintf("card%d", i)
		out := ok(t, dir, append([]string{"flash", from, card}, flags...)...)
		if !strings.Contains(out, "twin 1.0 is on "+card+" and verified") {
			t.Errorf("flashing from %s: got %s", from, out)
		}
		sameCard(t, dir, card)
	}
	ok(t, dir, "pull", "card0", "-o", "again.img") // from a card
	sameCard(t, dir, "again.img")
	// A damaged copy is fetched again; several cards at once wait for one copy.
	must(t, dir, `f=$(ls -S .cache/pikelet/images/*/blobs/sha256/* cache/pikelet/images/*/blobs/sha256/* 2>/dev/null | head -n 1) && `+
		`[ -n "$f" ] && printf x | dd of=$f bs=1 seek=5000 conv=notrunc status=none`)
	var group sync.WaitGroup
	for i := range 3 {
		group.Go(func() {
			args := append([]string{"flash", s.Addr + "/twin:1.0", fmt.Sprintf("at-once%d", i)}, flags...)
			if out, code := pikelet(t, dir, []string{"XDG_CACHE_HOME=" + dir + "/cache"}, args...); code != 0 {
				t.Errorf("flashing three cards at once: %s", out)
			}
		})
	}
	group.Wait()
	for i := range 3 {
		sameCard(t, dir, fmt.Sprintf("at-once%d", i))
	}
	s.Stop() // without the registry it is unknown what the tag names
	fails(t, dir, append([]string{"flash", s.Addr + "/twin:1.0", "again", "--retry-after", "1ms"}, flags...), "connection refused")
	build := t.TempDir()
	newSpec(t, build)
	warmCache(t, build)
	ok(t, build, "build", "-o", "out", "--flash", "card.img", "image.yaml")
	must(t, build, "cmp card.img out/disk.img")
}

// TestFlashOverOldCard asks before a card is overwritten, and leaves none of its
// state.
func TestFlashOverOldCard(t *testing.T) {
	dir := shippedIn(t)
	must(t, dir, "yes 'an older cluster' | head -c 160M > old")
	out, code := flashAsking(t, dir, "nonsense\n", "flash", "one", "old")
	if code == 0 || !strings.Contains(out, `Type "old" to continue`) || !strings.Contains(out, "nothing was written") {
		t.Errorf("a wrong confirmation: exit status %d\n%s", code, out)
	}
	must(t, dir, "head -c 16 old | grep -q older")
	if out, code := flashAsking(t, dir, "old\n", "flash", "one", "old"); code != 0 {
		t.Fatalf("the right confirmation: %s", out)
	}
	ok(t, dir, "inspect", "old")
	state := partitionOfDisk(t, dir+"/old", disk.State)
	b, err := os.ReadFile(dir + "/old")
	if err != nil || !bytes.Equal(b[state.Start:state.Start+disk.StateClear], make([]byte, disk.StateClear)) {
		t.Errorf("the state of an older cluster is still there (%v)", err)
	}
}

// TestFlashForNode flashes a card with the config of a node.
func TestFlashForNode(t *testing.T) {
	dir := shippedIn(t)
	write(t, dir+"/nodes.yaml", "cluster-secret: a secret of a cluster that no one guesses\ndefaults: {time: {zone: Asia/Tokyo}}\nnodes:\n"+
		"- {hostname: attic, serial: '00000001'}\n- {hostname: cellar, serial: '00000002'}\n", 0o600)
	fails(t, dir, []string{"flash", "one", "attic.img", "--inventory", "nodes.yaml"},
		"is an inventory; want one of its nodes", "name it with --node")
	if _, err := os.Stat(dir + "/attic.img"); err == nil {
		t.Error("a refused command line left a card")
	}
	out := ok(t, dir, "flash", "one", "attic.img", "--inventory", "nodes.yaml", "--node", "attic")
	if !strings.Contains(out, "twin 1.0 for attic is on attic.img") {
		t.Error(out)
	}
	text := controlFile(t, dir+"/attic.img", "node.yaml")
	if !strings.Contains(text, "hostname: attic") || !strings.Contains(text, "seed: ") || strings.Contains(text, "that no one") ||
		strings.Contains(text, "cellar") {
		t.Errorf("the config of the card is\n%.400s", strings.TrimSpace(text))
	}
	// A disk image that got a config keeps it on its way to a card.
	must(t, dir, "cp one/disk.img conf.img")
	ok(t, dir, "node", "write", "nodes.yaml", "conf.img", "--node", "cellar")
	ok(t, dir, "flash", "conf.img", "cellar.img")
	must(t, dir, "cmp conf.img cellar.img")
}

// TestFlashRepairsControl repairs a destroyed control partition.
func TestFlashRepairsControl(t *testing.T) {
	dir := shippedIn(t)
	must(t, dir, "cp one/disk.img spoilt && dd if=/dev/urandom of=spoilt bs=1M seek=4 count=2 conv=notrunc status=none")
	ok(t, dir, "flash", "--repair-control", "spoilt", "--yes")
	if got := controlFile(t, dir+"/spoilt", "autoboot.txt"); !strings.HasPrefix(got, "[all]\ntryboot_a_b=1\nboot_partition=2\n") {
		t.Errorf("autoboot.txt of a repaired card: %q", got)
	}
}

// TestFlashRefuses devices and images that cannot be used.
func TestFlashRefuses(t *testing.T) {
	dir := shippedIn(t)
	fails(t, dir, []string{"flash", "one", "two", "three"}, "want an image and a device, got 3 arguments")
	fails(t, dir, []string{"flash", "one", "nothing.img", "--keep-state"}, "no state to keep")
	if _, err := os.Stat(dir + "/nothing.img"); err == nil {
		t.Error("a flash that was refused left a file")
	}
	fails(t, dir, []string{"flash", "one", "."}, "neither a disk nor a file", "hint: pikelet flash without arguments lists the devices")
	must(t, dir, "head -c 1M one/disk.img > short")
	fails(t, dir, []string{"flash", "one", "short", "--yes"}, "short has 1 MB, and the image needs")
	fails(t, dir, []string{"flash", "short", "x"}, "short: ")
	var devices struct{ Result []map[string]any }
	if err := json.Unmarshal([]byte(ok(t, dir, "flash", "--json")), &devices); err != nil {
		t.Errorf("the devices as JSON: %v", err)
	}
}

// flashAsking runs pikelet with something typed.
func flashAsking(t *testing.T, dir, typed string, args ...string) (string, int) {
	t.Helper()
	cmd := exec.Command(os.Args[0], args...)
	cmd.Dir, cmd.Env = dir, []string{"BE_PIKELET=1", "HOME=" + dir, "PATH=" + os.Getenv("PATH")}
	cmd.Stdin = strings.NewReader(typed)
	out, err := cmd.CombinedOutput()
	if err != nil && cmd.ProcessState == nil {
		t.Fatal(err)
	}
	return string(out), cmd.ProcessState.ExitCode()
}

func partitionOfDisk(t *testing.T, card string, n int) disk.Partition {
	t.Helper()
	f, err := os.Open(card)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	table, err := disk.ReadTable(f)
	if err != nil {
		t.Fatal(err)
	}
	return table.Partitions[n-1]
}

// controlFile reads a file of a card's control partition with mtools.
func controlFile(t *testing.T, card, name string) string {
	t.Helper()
	p := partitionOfDisk(t, card, disk.Control)
	out, err := exec.Command("mtype", "-i", fmt.Sprintf("%s@@%d", card, p.Start), "::"+name).Output()
	if err != nil {
		t.Fatalf("mtype %s: %v", name, err)
	}
	return strings.ReplaceAll(string(out), "\r\n", "\n")
}

// written returns how much a process has written so far; see proc(5).
func written(t *testing.T, pid int) int64 {
	t.Helper()
	b, err := os.ReadFile(fmt.Sprintf("/proc/%d/io", pid))
	if err != nil {
		return 0 // it has ended
	}
	_, after, found := strings.Cut(string(b), "wchar: ")
	var n int64
	if _, err := fmt.Sscan(after, &n); !found || err != nil {
		t.Fatalf("/proc/%d/io holds %q", pid, b)
	}
	return n
}

// stored returns how many bytes of a file are not holes.
func stored(t *testing.T, name string) int64 {
	t.Helper()
	var st syscall.Stat_t
	if err := syscall.Stat(name, &st); err != nil {
		t.Fatal(err)
	}
	return st.Blocks * 512
}

// killAfter runs pikelet and kills it when it has written so much. It reports
// whether it was killed, not done before.
func killAfter(t *testing.T, dir string, most int64, args ...string) bool {
	t.Helper()
	cmd := exec.Command(os.Args[0], args...)
	cmd.Dir, cmd.Env = dir, []string{"BE_PIKELET=1", "HOME=" + dir, "PATH=" + os.Getenv("PATH")}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	ended := make(chan error, 1)
	go func() { ended <- cmd.Wait() }()
	for {
		select {
		case err := <-ended:
			return err != nil
		case <-time.After(time.Millisecond):
			if written(t, cmd.Process.Pid) >= most {
				cmd.Process.Kill()
				return <-ended != nil
			}
		}
	}
}

// TestFlashKilled kills flashes at random places: a card that was a card is
// none any more, and says so; flashing it again makes it whole.
func TestFlashKilled(t *testing.T) {
	dir := shippedIn(t)
	must(t, dir, "cp two/disk.img card")
	all := stored(t, dir+"/one/disk.img")
	killed := 0
	for n := 0; killed < 8 && n < 60; n++ { // one that was done before its moment is ignored
		must(t, dir, "cp two/disk.img card")
		if !killAfter(t, dir, rand.Int64N(all), "flash", "one", "card", "--yes") {
			continue
		}
		killed++
		f, err := os.Open(dir + "/card")
		if err != nil {
			t.Fatal(err)
		}
		table, err := disk.ReadTable(f)
		f.Close()
		switch {
		case err != nil && strings.Contains(err.Error(), "was being flashed"):
			fails(t, dir, []string{"inspect", "card"}, "the card was being flashed when that was interrupted; flash it again")
			fails(t, dir, []string{"flash", "card", "copy"}, "the card was being flashed when that was interrupted")
		case err != nil:
			t.Errorf("a killed flash left an unreadable card: %v", err)
		default: // before its first write, or after its last
			must(t, dir, "cmp card two/disk.img || cmp card one/disk.img")
			if table.Partitions[0].Size == 0 {
				t.Error("a table without partitions")
			}
		}
	}
	if killed < 8 {
		t.Errorf("only %d flashes of 60 were killed", killed)
	}
	ok(t, dir, "flash", "one", "card", "--yes")
	must(t, dir, "cmp card one/disk.img")
}

// mounted runs pikelet with dev mounted on mnt, in a mount namespace of its
// own: a namespace that another test makes meanwhile would get a copy of a
// mount here, and keep the device busy after umount.
func mounted(t *testing.T, dir, dev, mnt string, args ...string) string {
	t.Helper()
	script := `mkdir -p "$1" && mount "$0" "$1" && shift && { "$@" || echo "exit status $?"; }`
	cmd := exec.Command("unshare", "--mount", "--propagation", "private", "sh", "-ec", script, dev, mnt, os.Args[0])
	cmd.Args = append(cmd.Args, args...)
	cmd.Dir, cmd.Env = dir, []string{"BE_PIKELET=1", "HOME=" + dir, "PATH=" + os.Getenv("PATH")}
	out, err := cmd.CombinedOutput()
	if err != nil {
		t.Fatalf("pikelet %v beside a mounted %s: %v\n%s", args, dev, err, out)
	}
	return string(out)
}

// TestFlashOntoLoop: a block device, which is mounted first, then too small,
// then written; and flashed again with its state kept.
func TestFlashOntoLoop(t *testing.T) {
	dir := shippedIn(t)
	must(t, dir, "truncate -s 300M card && mkfs.ext4 -q card")
	loop := func() string {
		out, err := exec.Command("losetup", "-f", "--show", dir+"/card").Output()
		if err != nil {
			t.Fatalf("losetup: %v", err)
		}
		dev := strings.TrimSpace(string(out))
		t.Cleanup(func() { exec.Command("losetup", "-d", dev).Run() })
		return dev
	}
	dev := loop()
	mnt := filepath.Join(dir, "mnt")
	if out := mounted(t, dir, dev, mnt, "flash"); !strings.Contains(out, dev+", "+dir+"/card, loop, 315 MB, mounted on "+mnt) ||
		!strings.Contains(out, "cannot be flashed: is mounted on "+mnt) {
		t.Errorf("the devices are\n%s", out)
	}
	if out := mounted(t, dir, dev, mnt, "flash", "one", dev, "--yes"); !strings.Contains(out, "exit status 1") ||
		!strings.Contains(out, dev+" is mounted on "+mnt+"\nhint: unmount it first: umount "+mnt) {
		t.Errorf("flashing a mounted device printed\n%s", out)
	}
	ok(t, dir, "flash", "one", dev, "--yes")
	ok(t, dir, "verify", dev)
	ok(t, dir, "inspect", "--key", "ci.pub", dev)
	state := partitionOfDisk(t, dir+"/card", disk.State)
	must(t, dir, fmt.Sprintf("echo kept | dd of=%s bs=1 seek=%d conv=notrunc status=none", dev, state.Start))
	ok(t, dir, "flash", "two", dev, "--yes", "--keep-state")
	must(t, dir, fmt.Sprintf("sync && dd if=card bs=1 skip=%d count=4 status=none | grep -q kept", state.Start))
	if out := ok(t, dir, "verify", dev); !strings.Contains(out, "twin 1.1 ") {
		t.Error(out)
	}
	must(t, dir, "truncate -s 100M small")
	out, err := exec.Command("losetup", "-f", "--show", "--read-only", dir+"/small").Output()
	if err != nil {
		t.Fatal(err)
	}
	locked := strings.TrimSpace(string(out))
	t.Cleanup(func() { exec.Command("losetup", "-d", locked).Run() })
	fails(t, dir, []string{"flash", "one", locked, "--yes"}, locked+" is read-only")
}

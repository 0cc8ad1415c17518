package backup

import (
	"bytes"
	"context"
	"errors"
	"flag"
	"io"
	"math/rand/v2"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"testing"
	"time"

	"filippo.io/age"

	"github.com/pikelet-os/pikelet/internal/device/datastore"
	form "github.com/pikelet-os/pikelet/internal/shared/backup"
	"github.com/pikelet-os/pikelet/internal/shared/backup/address"
	"github.com/pikelet-os/pikelet/internal/shared/backup/store"
)

var began = time.Date(2026, 11, 30, 3, 0, 0, 0, time.UTC)

func newJob(t testing.TB) (j Job, key *age.X25519Identity) {
	t.Helper()
	key = newKey(t)
	return Job{Server: newServer(t), Location: store.Location{Address: t.TempDir()}, Recipients: []age.Recipient{key.Recipient()},
		Keep: store.Keep{Last: 2}, Fresh: time.Hour}, key
}

func inStore(t testing.TB, j Job) []string {
	t.Helper()
	return names(t, j.Location.Address)
}

// TestJob: backups reach the store, those that need not be kept go, and nothing waits
// afterwards.
func TestJob(t *testing.T) {
	j, key := newJob(t)
	var all []string
	for n := range 4 {
		made, err := j.Run(context.Background(), began.Add(time.Duration(n)*time.Hour))
		if err != nil {
			t.Fatal(err)
		}
		all = append(all, made.Name)
	}
	if got := inStore(t, j); !slices.Equal(got, all[2:]) {
		t.Errorf("got %q, want %q", got, all[2:])
	}
	if _, err := os.Stat(filepath.Join(j.Server.Dir, spool)); err == nil {
		t.Error("the spool stays behind")
	}
	b, err := os.ReadFile(filepath.Join(j.Location.Address, all[3]))
	if err != nil {
		t.Fatal(err)
	}
	target := newTarget(t, "attic", j.Server.K3s)
	if _, err := target.Restore(context.Background(), bytes.NewReader(decrypted(t, bytes.NewReader(b), key))); err != nil {
		t.Error(err)
	}
}

// TestJobExcludesOthers: nothing else works on the server while it is read, and others
// do not wait for the store.
func TestJobExcludesOthers(t *testing.T) {
	j, _ := newJob(t)
	j.Exclusive = func() (func(), error) { return nil, os.ErrPermission }
	if _, err := j.Run(context.Background(), began); !errors.Is(err, os.ErrPermission) || len(inStore(t, j)) > 0 {
		t.Errorf("got error %v and %q in the store, want %v", err, inStore(t, j), os.ErrPermission)
	}
	asked := 0
	j.Exclusive = func() (func(), error) {
		asked++
		return func() {
			asked--
			if got := inStore(t, j); len(got) > 0 {
				t.Errorf("%q is in the store before others may go on", got)
			}
		}, nil
	}
	if _, err := j.Run(context.Background(), began); err != nil || asked != 0 {
		t.Errorf("got error %v, and %d not released", err, asked)
	}
}

// TestJobGoesOn: a backup that did not reach the store waits for it, with the same
// bytes, until it is too old.
func TestJobGoesOn(t *testing.T) {
	j, _ := newJob(t)
	good := j.Location
	place := filepath.Join(t.TempDir(), "mounted")
	if err := os.Mkdir(place, 0o700); err != nil {
		t.Fatal(err)
	}
	j.Location.Address = place
	block := filepath.Join(place, "."+address.NameOf("attic", began)+".part")
	if err := os.MkdirAll(filepath.Join(block, "x"), 0o700); err != nil {
		t.Fatal(err)
	}
	if _, err := j.Run(context.Background(), began); err == nil {
		t.Fatal("no error where the store takes nothing")
	}
	waits, err := os.ReadFile(filepath.Join(j.Server.Dir, spool, spooled))
	if err != nil {
		t.Fatal(err)
	}
	j.Location = good
	made, err := j.Run(context.Background(), began.Add(30*time.Minute))
	if err != nil || made.Name != address.NameOf("attic", began) {
		t.Fatalf("got %+v, %v", made, err)
	}
	if got, _ := os.ReadFile(filepath.Join(good.Address, made.Name)); !bytes.Equal(got, waits) {
		t.Error("the store has other bytes than those that waited")
	}
	j.Location.Address = place
	if _, err := j.Run(context.Background(), began); err == nil {
		t.Fatal("no error where the store takes nothing")
	}
	j.Location = good
	later := began.Add(2 * time.Hour)
	if made, err = j.Run(context.Background(), later); err != nil || made.Name != address.NameOf("attic", later) {
		t.Errorf("one that is too old is brought: %+v, %v", made, err)
	}
}

// TestJobReadsBack: what the store changed is no backup, and is not left there.
func TestJobReadsBack(t *testing.T) {
	j, _ := newJob(t)
	dir := filepath.Join(j.Server.Dir, spool)
	w, err := j.fill(context.Background(), dir, began)
	if err != nil {
		t.Fatal(err)
	}
	b, err := os.ReadFile(filepath.Join(dir, spooled))
	if err != nil {
		t.Fatal(err)
	}
	b[len(b)/2] ^= 1
	if err := os.WriteFile(filepath.Join(j.Location.Address, w.Name), b, 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := j.Run(context.Background(), began); !errors.Is(err, store.ErrDiffers) {
		t.Errorf("got error %v, want %v", err, store.ErrDiffers)
	}
	if got := inStore(t, j); len(got) > 0 {
		t.Errorf("%q is left there", got)
	}
	if _, err := j.Run(context.Background(), began); err != nil {
		t.Error(err)
	}
}

// newFetched returns a job whose server has a token, and what opens its backups.
func newFetched(t *testing.T) (j Job, keyOf func(name string) string) {
	t.Helper()
	j, identity := newJob(t)
	if err := os.WriteFile(filepath.Join(j.Server.Dir, "token"), []byte("K10abcd::server:secret\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	return j, func(name string) string {
		b, err := os.ReadFile(filepath.Join(j.Location.Address, name))
		if err != nil {
			t.Fatal(err)
		}
		key, err := form.KeyOf(bytes.NewReader(b), identity)
		if err != nil {
			t.Fatal(err)
		}
		return key
	}
}

// TestFetchRefuses: what is refused leaves no server.
func TestFetchRefuses(t *testing.T) {
	j, keyOf := newFetched(t)
	ctx := context.Background()
	made, err := j.Run(ctx, began)
	if err != nil {
		t.Fatal(err)
	}
	other, err := j.Run(ctx, began.Add(time.Hour))
	if err != nil {
		t.Fatal(err)
	}
	whole, err := os.ReadFile(filepath.Join(j.Location.Address, made.Name))
	if err != nil {
		t.Fatal(err)
	}
	damage := func(b []byte) {
		if err := os.WriteFile(filepath.Join(j.Location.Address, made.Name), b, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	changed := bytes.Clone(whole)
	changed[len(whole)-100] ^= 1
	key := keyOf(made.Name)
	for name, c := range map[string]struct {
		bytes  []byte
		key    string
		change func(*Target)
		want   error
	}{
		"the key of another backup": {whole, keyOf(other.Name), nil, form.ErrKey},
		"no key":                    {whole, "", nil, form.ErrKey},
		"an older Kubernetes":       {whole, key, func(t *Target) { t.K3s = "v1.33.9+k3s1" }, ErrNewer},
		"another token":             {whole, key, func(t *Target) { t.Token = "another" }, ErrToken},
		"cut off":                   {whole[:len(whole)-20], key, nil, form.ErrDamaged},
		"changed":                   {changed, key, nil, form.ErrDamaged},
	} {
		target := newTarget(t, "attic", j.Server.K3s)
		if c.change != nil {
			c.change(&target)
		}
		damage(c.bytes)
		if _, err := target.Fetch(ctx, j.Location, made.Name, c.key); !errors.Is(err, c.want) {
			t.Errorf("%s: got error %v, want %v", name, err, c.want)
		}
		if got, _ := datastore.Adopt(target.Dir); got != "" || datastore.Exists(target.Dir) {
			t.Errorf("%s: there is a server", name)
		}
	}
	// What was damaged is fetched anew.
	target := newTarget(t, "attic", j.Server.K3s)
	for n, c := range [][]byte{changed, whole} {
		damage(c)
		if _, err := target.Fetch(ctx, j.Location, made.Name, key); (err == nil) != (n == 1) {
			t.Errorf("got error %v", err)
		}
	}
}

// TestFetch: what a node's config names is restored, once, and a download goes on where
// it broke off.
func TestFetch(t *testing.T) {
	j, keyOf := newFetched(t)
	ctx := context.Background()
	made, err := j.Run(ctx, began)
	if err != nil {
		t.Fatal(err)
	}
	key := keyOf(made.Name)
	whole, err := os.ReadFile(filepath.Join(j.Location.Address, made.Name))
	if err != nil {
		t.Fatal(err)
	}
	target := newTarget(t, "attic", j.Server.K3s)
	target.Token = "secret"
	if err := os.WriteFile(target.Dir+".fetched-"+made.Name, whole[:len(whole)/2], 0o600); err != nil {
		t.Fatal(err)
	}
	if info, err := target.Fetch(ctx, j.Location, made.Name, key); err != nil || info.Node != "attic" {
		t.Fatalf("got %+v, %v", info, err)
	}
	if _, err := datastore.Adopt(target.Dir); err != nil || !datastore.Exists(target.Dir) {
		t.Errorf("there is no server: %v", err)
	}
	if _, err := target.Fetch(ctx, j.Location, made.Name, key); !errors.Is(err, ErrRestored) {
		t.Errorf("once more: got error %v, want %v", err, ErrRestored)
	}
	if _, err := target.Fetch(ctx, j.Location, address.NameOf("attic", began.Add(-time.Hour)), key); !errors.Is(err, store.ErrNotFound) {
		t.Errorf("got error %v, want %v", err, store.ErrNotFound)
	}
}

var megabytes = flag.Int("datastore", 40, "size of the datastore that TestJobsMemory backs up, in MiB")

// TestJobsMemory: what a backup takes of memory does not grow with the datastore. Of
// the heap it is the peak that is measured, beside what was there before; what the whole
// process took is logged.
func TestJobsMemory(t *testing.T) {
	j, _ := newJob(t)
	db, err := openDatabase(filepath.Join(j.Server.Dir, database), "rw")
	if err != nil {
		t.Fatal(err)
	}
	defer db.Close()
	rows := *megabytes // of as much each
	if testing.Short() {
		rows = min(rows, 10)
	}
	value, random := make([]byte, 1<<20), rand.NewChaCha8([32]byte{})
	for range rows {
		random.Read(value)
		if _, err := db.Exec("INSERT INTO kine (name, value) VALUES ('/registry/pods', ?)", value); err != nil {
			t.Fatal(err)
		}
	}
	before := heap()
	peak, stop := uint64(0), make(chan struct{})
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		for {
			select {
			case <-stop:
				return
			case <-time.After(10 * time.Millisecond):
				peak = max(peak, heap())
			}
		}
	}()
	start := time.Now()
	made, err := j.Run(context.Background(), began)
	close(stop)
	<-ended
	if err != nil || made.Size < int64(rows)<<20 {
		t.Fatalf("got %+v, %v", made, err)
	}
	status, _ := os.ReadFile("/proc/self/status")
	_, highest, _ := strings.Cut(string(status), "VmHWM:")
	highest, _, _ = strings.Cut(highest, "\n")
	t.Logf("%d MiB, %v: the heap grew by %d MiB, the process took %s at most", made.Size>>20, time.Since(start).Round(time.Second),
		(int64(peak)-int64(before))>>20, strings.TrimSpace(highest))
	if grown := int64(peak) - int64(before); grown > 32<<20 {
		t.Errorf("a backup of %d MiB took %d MiB of memory, want at most 32", made.Size>>20, grown>>20)
	}
}

func heap() uint64 {
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	return m.HeapInuse
}

// TestSpoolIsEncrypted: what waits on the volume can be read by no one either.
func TestSpoolIsEncrypted(t *testing.T) {
	j, _ := newJob(t)
	dir := filepath.Join(j.Server.Dir, spool)
	if _, err := j.fill(context.Background(), dir, began); err != nil {
		t.Fatal(err)
	}
	for _, name := range names(t, dir) {
		f, err := os.Open(filepath.Join(dir, name))
		if err != nil {
			t.Fatal(err)
		}
		b, err := io.ReadAll(f)
		f.Close()
		if err != nil || bytes.Contains(b, []byte("SQLite")) || strings.Contains(string(b), "K10") {
			t.Errorf("%s can be read: %v", name, err)
		}
	}
}

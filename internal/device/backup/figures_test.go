package backup

import (
	"context"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"runtime/debug"
	"strings"
	"syscall"
	"testing"
	"time"

	"filippo.io/age"
	"github.com/klauspost/compress/zstd"

	"github.com/pikelet-os/pikelet/internal/shared/backup/store"
)

// jobOf names, for a process of BenchmarkJob, the server's directory and the store's.
const jobOf = "PIKELET_BACKUP_JOB"

// TestMain lets the test binary be the process that BenchmarkJob measures.
func TestMain(m *testing.M) {
	dir, to, is := strings.Cut(os.Getenv(jobOf), "\n")
	if !is {
		os.Exit(m.Run())
	}
	debug.SetMemoryLimit(40 << 20) // as on a node
	key, err := age.GenerateX25519Identity()
	if err == nil {
		j := Job{Server: Server{Dir: dir, Seed: seed, Node: "attic", K3s: "v1.34.4+k3s1", Release: "1.7"},
			Location: store.Location{Address: to}, Recipients: []age.Recipient{key.Recipient()}, Fresh: time.Hour}
		_, err = j.Run(context.Background(), time.Now())
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}

// BenchmarkJob backs a server with a datastore of 200 MB up to a directory, read back,
// in a process of its own. The rows are as long and as alike as those of a cluster.
func BenchmarkJob(b *testing.B) {
	s := newServer(b)
	fill(b, s, 200<<20)
	alone := compressedSize(b, filepath.Join(s.Dir, database))
	peak, uploaded := 0.0, int64(0)
	for b.Loop() {
		to := b.TempDir()
		cmd := exec.Command(os.Args[0])
		cmd.Env, cmd.Stderr = append(os.Environ(), jobOf+"="+s.Dir+"\n"+to), os.Stderr
		if err := cmd.Run(); err != nil {
			b.Fatal(err)
		}
		peak = max(peak, float64(cmd.ProcessState.SysUsage().(*syscall.Rusage).Maxrss)/1024)
		st, err := os.Stat(filepath.Join(to, names(b, to)[0]))
		if err != nil {
			b.Fatal(err)
		}
		uploaded = st.Size()
	}
	b.ReportMetric(b.Elapsed().Seconds()/float64(b.N), "s/backup")
	b.ReportMetric(peak, "MiB-peak")
	b.ReportMetric(float64(uploaded)/float64(alone), "uploaded/compressed")
}

// fill gives the datastore rows of so many bytes together.
func fill(b *testing.B, s Server, size int) {
	b.Helper()
	db, err := openDatabase(filepath.Join(s.Dir, database), "rw")
	if err != nil {
		b.Fatal(err)
	}
	defer db.Close()
	tx, err := db.Begin()
	if err != nil {
		b.Fatal(err)
	}
	random := rand.New(rand.NewPCG(1, 1))
	for size > 0 {
		name := fmt.Sprintf("/registry/pods/default/web-%08x", random.Uint32())
		value := strings.Repeat(fmt.Sprintf(`{"name":"web-%08x","uid":"%016x","image":"registry.example/web@%016x","ip":"10.42.%d.%d"},`,
			random.Uint32(), random.Uint64(), random.Uint64(), random.IntN(256), random.IntN(256)), 8) + fmt.Sprintf("%x", random.Uint64())
		if _, err := tx.Exec("INSERT INTO kine (name, value) VALUES (?, ?)", name, value); err != nil {
			b.Fatal(err)
		}
		size -= len(name) + len(value)
	}
	if err := tx.Commit(); err != nil {
		b.Fatal(err)
	}
}

// compressedSize returns how many bytes a file has in zstd's default form.
func compressedSize(b *testing.B, name string) int64 {
	b.Helper()
	f, err := os.Open(name)
	if err != nil {
		b.Fatal(err)
	}
	defer f.Close()
	out, err := os.Create(filepath.Join(b.TempDir(), "compressed"))
	if err != nil {
		b.Fatal(err)
	}
	defer out.Close()
	z, err := zstd.NewWriter(out)
	if err != nil {
		b.Fatal(err)
	}
	if _, err := io.Copy(z, f); err != nil {
		b.Fatal(err)
	}
	if err := z.Close(); err != nil {
		b.Fatal(err)
	}
	st, err := out.Stat()
	if err != nil {
		b.Fatal(err)
	}
	return st.Size()
}

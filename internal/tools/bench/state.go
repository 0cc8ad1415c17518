package main

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"database/sql"
	"encoding/pem"
	"fmt"
	"io"
	"math/big"
	mathrand "math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"runtime/debug"
	"strings"
	"syscall"
	"time"

	"filippo.io/age"
	"github.com/klauspost/compress/zstd"
	_ "modernc.org/sqlite" // the driver of the datastore

	"github.com/pikelet-os/pikelet/internal/device/backup"
	"github.com/pikelet-os/pikelet/internal/shared/backup/store"
)

const (
	// stateSize is how large the datastore is that is backed up, in bytes.
	stateSize = 200 << 20
	// stateMemory is what the collector of garbage aims for, as on a node.
	stateMemory = 40 << 20
)

// state measures a backup of a k3s server to a directory, read back, in a process of
// its own: seconds, the memory of that process, and the bytes that reach the store
// beside those of the datastore compressed alone.
func state(ctx context.Context, o options, figures map[string]float64) error {
	dir := filepath.Join(o.scratch, "state", "server")
	if err := makeServer(ctx, dir); err != nil {
		return fmt.Errorf("making a server: %w", err)
	}
	program, err := os.Executable()
	if err != nil {
		return err
	}
	var seconds, peaks []float64
	size := int64(0)
	for range o.rounds {
		to, err := os.MkdirTemp(o.scratch, "store-")
		if err != nil {
			return err
		}
		cmd := exec.CommandContext(ctx, program, "-backup", dir, "-o", to)
		cmd.Stderr = os.Stderr
		start := time.Now()
		if err := cmd.Run(); err != nil {
			return fmt.Errorf("backing up: %w", err)
		}
		seconds = append(seconds, time.Since(start).Seconds())
		peaks = append(peaks, float64(cmd.ProcessState.SysUsage().(*syscall.Rusage).Maxrss)/1024)
		if size, err = sizeBelow(to); err != nil {
			return err
		}
		if err := os.RemoveAll(to); err != nil {
			return err
		}
	}
	alone, err := compressedSize(filepath.Join(dir, "db", "state.db"))
	if err != nil {
		return err
	}
	figures["backup_seconds"], figures["backup_peak_mib"] = median(seconds), median(peaks)
	figures["bytes_uploaded_ratio"] = float64(size) / float64(alone)
	o.log.Info("backups", "seconds", seconds, "peak MiB", peaks, "bytes", size, "datastore compressed", alone)
	return nil
}

// backUp is what the process does that is measured.
func backUp(dir, to string) error {
	debug.SetMemoryLimit(stateMemory)
	key, err := age.GenerateX25519Identity()
	if err != nil {
		return err
	}
	j := backup.Job{
		Server:   backup.Server{Dir: dir, Seed: strings.Repeat("1", 64), Node: "attic", K3s: "v1.34.4+k3s1", Release: "1.0"},
		Location: store.Location{Address: to}, Recipients: []age.Recipient{key.Recipient()}, Fresh: time.Hour,
	}
	_, err = j.Run(context.Background(), time.Now())
	return err
}

// makeServer makes what a backup is of: a datastore with rows as long and as alike as
// those of a cluster, and a CA.
func makeServer(ctx context.Context, dir string) error {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return err
	}
	ca := &x509.Certificate{SerialNumber: big.NewInt(1), IsCA: true, BasicConstraintsValid: true}
	der, err := x509.CreateCertificate(rand.Reader, ca, ca, key.Public(), key)
	if err != nil {
		return err
	}
	for name, text := range map[string]string{
		"tls/server-ca.crt": string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der})), "token": "K10::server:secret\n", "db/lock": "",
	} {
		name = filepath.Join(dir, name)
		if err := os.MkdirAll(filepath.Dir(name), 0o700); err != nil {
			return err
		}
		if err := os.WriteFile(name, []byte(text), 0o600); err != nil {
			return err
		}
	}
	db, err := sql.Open("sqlite", filepath.Join(dir, "db", "state.db"))
	if err != nil {
		return err
	}
	defer db.Close()
	if _, err := db.ExecContext(ctx, "CREATE TABLE kine (id INTEGER PRIMARY KEY, name TEXT, value BLOB, old_value BLOB)"); err != nil {
		return err
	}
	tx, err := db.BeginTx(ctx, nil)
	if err != nil {
		return err
	}
	defer tx.Rollback()
	random := mathrand.New(mathrand.NewPCG(1, 1))
	for filled := 0; filled < stateSize; {
		name := fmt.Sprintf("/registry/pods/default/web-%08x", random.Uint32())
		value := strings.Repeat(fmt.Sprintf(`{"name":"web-%08x","uid":"%016x","image":"registry.example/web@%016x","ip":"10.42.%d.%d"},`,
			random.Uint32(), random.Uint64(), random.Uint64(), random.IntN(256), random.IntN(256)), 4) + fmt.Sprintf("%x", random.Uint64())
		if _, err := tx.ExecContext(ctx, "INSERT INTO kine (name, value, old_value) VALUES (?, ?, ?)", name, value, value); err != nil {
			return err
		}
		filled += len(name) + 2*len(value)
	}
	return tx.Commit()
}

func sizeBelow(dir string) (total int64, err error) {
	names, err := filepath.Glob(filepath.Join(dir, "*"))
	if err != nil {
		return 0, err
	}
	for _, name := range names {
		st, err := os.Stat(name)
		if err != nil {
			return 0, err
		}
		total += st.Size()
	}
	return total, nil
}

// compressedSize returns how many bytes a file has in zstd's default form.
func compressedSize(name string) (int64, error) {
	f, err := os.Open(name)
	if err != nil {
		return 0, err
	}
	defer f.Close()
	var n counting
	z, err := zstd.NewWriter(&n)
	if err != nil {
		return 0, err
	}
	if _, err := io.Copy(z, f); err != nil {
		return 0, err
	}
	err = z.Close()
	return int64(n), err
}

// counting counts the bytes that are written to it.
type counting int64

// Write implements io.Writer.
func (c *counting) Write(b []byte) (int, error) {
	*c += counting(len(b))
	return len(b), nil
}

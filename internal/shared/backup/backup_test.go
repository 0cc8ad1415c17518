package backup

import (
	"archive/tar"
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"
	"time"

	"filippo.io/age"
	"github.com/klauspost/compress/zstd"

	"github.com/pikelet-os/pikelet/internal/shared/image"
)

var made = time.Date(2026, 11, 30, 3, 0, 0, 0, time.UTC)

func info() Info {
	return Info{Format: 1, Node: "attic", Cluster: "sha256:0123", Made: made, K3s: "v1.34.4+k3s1", Release: "1.7", Datastore: SQLite}
}

func newKey(t testing.TB) *age.X25519Identity {
	t.Helper()
	key, err := age.GenerateX25519Identity()
	if err != nil {
		t.Fatal(err)
	}
	return key
}

// files are those of a small backup.
func files() map[string]string {
	return map[string]string{
		StateDB: strings.Repeat("a row of the datastore\n", 1000), Server + "token": "K10::server:secret\n",
		Server + "tls/server-ca.crt": "certificate\n", Server + "cred/passwd": "", Seed: "0123\n",
	}
}

func write(t testing.TB, key *age.X25519Identity, files map[string]string) []byte {
	t.Helper()
	var out bytes.Buffer
	w, err := NewWriter(&out, info(), key.Recipient())
	if err != nil {
		t.Fatal(err)
	}
	for _, name := range slices.Sorted(maps.Keys(files)) {
		if err := w.Add(name, int64(len(files[name])), strings.NewReader(files[name])); err != nil {
			t.Fatal(err)
		}
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	return out.Bytes()
}

// read reads all of a backup.
func read(b []byte, keys ...age.Identity) (Info, map[string]string, error) {
	plain, err := Decrypt(bytes.NewReader(b), keys...)
	if err != nil {
		return Info{}, nil, err
	}
	return extract(plain)
}

func extract(plain io.Reader) (Info, map[string]string, error) {
	got := map[string]string{}
	i, err := Extract(plain, func(Info) error { return nil }, func(name string, _ int64, r io.Reader) error {
		text, err := io.ReadAll(r)
		got[name] = string(text)
		return err
	})
	return i, got, err
}

func TestRoundTrip(t *testing.T) {
	key, other := newKey(t), newKey(t)
	b := write(t, key, files())
	i, got, err := read(b, key)
	if err != nil || i != info() || !maps.Equal(got, files()) {
		t.Errorf("got %+v, %d files, %v", i, len(got), err)
	}
	if _, _, err := read(b, other); !errors.Is(err, ErrKey) {
		t.Errorf("with another key: got error %v, want %v", err, ErrKey)
	}
	if _, _, err := read(b); !errors.Is(err, ErrKey) {
		t.Errorf("without a key: got error %v, want %v", err, ErrKey)
	}
	for _, text := range files() {
		if len(text) > 8 && bytes.Contains(b, []byte(text)) {
			t.Errorf("%q can be read without a key", text)
		}
	}
	refused := errors.New("refused")
	plain, err := Decrypt(bytes.NewReader(b), key)
	if err != nil {
		t.Fatal(err)
	}
	_, err = Extract(plain, func(Info) error { return refused }, func(string, int64, io.Reader) error {
		t.Error("a file of a backup that was not accepted is placed")
		return nil
	})
	if !errors.Is(err, refused) {
		t.Errorf("got error %v, want %v", err, refused)
	}
}

// TestDamagedBackups: a backup that was cut off or changed anywhere is refused.
func TestDamagedBackups(t *testing.T) {
	key := newKey(t)
	b := write(t, key, files())
	for n := range b {
		if _, _, err := read(b[:n], key); !errors.Is(err, ErrDamaged) {
			t.Fatalf("cut after %d of %d bytes: got error %v, want %v", n, len(b), err, ErrDamaged)
		}
		changed := bytes.Clone(b)
		changed[n] ^= 0x04
		if _, _, err := read(changed, key); !errors.Is(err, ErrDamaged) && !errors.Is(err, ErrKey) {
			t.Fatalf("byte %d of %d changed: got error %v, want %v", n, len(b), err, ErrDamaged)
		}
	}
	// What age seals in several pieces, and zstd in several blocks.
	random := make([]byte, 300<<10)
	rand.NewChaCha8([32]byte{}).Read(random)
	large := write(t, key, map[string]string{StateDB: string(random)})
	for n := range 100 {
		if _, _, err := read(large[:len(large)-n-1], key); !errors.Is(err, ErrDamaged) {
			t.Fatalf("without the last %d bytes: got error %v, want %v", n+1, err, ErrDamaged)
		}
	}
	if _, _, err := read(append(bytes.Clone(b), "more"...), key); !errors.Is(err, ErrDamaged) {
		t.Errorf("with bytes after its end: got error %v, want %v", err, ErrDamaged)
	}
}

// member is an entry of a tar.
type member struct {
	tar.Header
	text string
}

func plain(name, text string) member {
	return member{tar.Header{Name: name, Size: int64(len(text)), Mode: 0o600}, text}
}

// packed returns members as what Extract takes.
func packed(t testing.TB, list []member, tail string) []byte {
	t.Helper()
	var out bytes.Buffer
	z, err := zstd.NewWriter(&out)
	if err != nil {
		t.Fatal(err)
	}
	w := tar.NewWriter(z)
	for _, m := range list {
		if m.Typeflag == 0 {
			m.Typeflag = tar.TypeReg
		}
		if err := w.WriteHeader(&m.Header); err != nil {
			t.Fatal(err)
		}
		if _, err := io.WriteString(w, m.text); err != nil {
			t.Fatal(err)
		}
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	if _, err := io.WriteString(z, tail); err != nil {
		t.Fatal(err)
	}
	if err := z.Close(); err != nil {
		t.Fatal(err)
	}
	return out.Bytes()
}

// digests returns sums.json of members.
func digests(list ...member) member {
	sums := map[string]sum{}
	for _, m := range list {
		sums[m.Name] = sum{int64(len(m.text)), image.DigestOf([]byte(m.text))}
	}
	text, err := json.Marshal(sums)
	if err != nil {
		panic(err)
	}
	return plain(sumsName, string(text))
}

// TestHostileBackups: whoever knows a public key can make a backup.
func TestHostileBackups(t *testing.T) {
	head := func(change func(*Info)) member {
		i := info()
		change(&i)
		text, err := json.Marshal(i)
		if err != nil {
			t.Fatal(err)
		}
		return plain(infoName, string(text))
	}
	first, db := head(func(*Info) {}), plain(StateDB, "rows")
	with := func(list ...member) []member { // all of it is right but for these
		list = append([]member{db}, list...)
		return append(append([]member{first}, list...), digests(list...))
	}
	typed := func(kind byte, name, link string) member {
		return member{tar.Header{Name: name, Typeflag: kind, Linkname: link}, ""}
	}
	many := []member{first, db}
	for n := range MaxFiles + 1 {
		many = append(many, plain(fmt.Sprintf("server/tls/%d", n), ""))
	}
	for name, list := range map[string][]member{
		"no info":                {db, digests(db)},
		"an info twice":          with(first),
		"info of another format": {head(func(i *Info) { i.Format = 2 }), db, digests(db)},
		"no cluster":             {head(func(i *Info) { i.Cluster = "" }), db, digests(db)},
		"no node":                {head(func(i *Info) { i.Node = "" }), db, digests(db)},
		"an unknown datastore":   {head(func(i *Info) { i.Datastore = "mysql" }), db, digests(db)},
		"an empty datastore":     {first, plain(StateDB, ""), digests(plain(StateDB, ""))},
		"no datastore":           {first, plain("server/token", "x"), digests(plain("server/token", "x"))},
		"an info too large":      {plain(infoName, strings.Repeat(" ", maxInfo+1)), db, digests(db)},
		"an invalid info":        {plain(infoName, "backup"), db, digests(db)},
		"no sums":                {first, db},
		"invalid sums":           {first, db, plain(sumsName, "sums")},
		"sums of more":           {first, db, digests(db, plain("server/token", "x"))},
		"sums of less":           {first, db, plain("server/token", "x"), digests(db)},
		"another digest":         {first, db, digests(plain(StateDB, "rowz"))},
		"something behind":       append(with(), plain("server/token", "x")),
		"a path upwards":         with(plain("server/../../etc/passwd", "x")),
		"a path upwards at last": with(plain("server/tls/..", "x")),
		"an absolute path":       with(plain("/etc/passwd", "x")),
		"no path":                with(plain("server", "x")),
		"a path twice":           with(plain("server/token", "x"), plain("server/token", "x")),
		"a path with a newline":  with(plain("server/to\nken", "x")),
		"a path not clean":       with(plain("server//token", "x")),
		"another place":          with(plain("agent/token", "x")),
		"a part of the database": with(plain("server/db/state.db-wal", "x")),
		"a symlink":              with(typed(tar.TypeSymlink, "server/tls", "/etc")),
		"a hard link":            with(typed(tar.TypeLink, "server/tls", "/etc/passwd")),
		"a directory":            with(typed(tar.TypeDir, "server/tls", "")),
		"a device":               with(typed(tar.TypeChar, "server/tls", "")),
		"a fifo":                 with(typed(tar.TypeFifo, "server/tls", "")),
		"a file below a file":    with(plain("server/a", "x"), plain("server/a/b", "x")),
		"a file above a file":    with(plain("server/a/b/c", "x"), plain("server/a", "x")),
		"a file too large":       with(plain("server/token", strings.Repeat("x", maxSmall+1))),
		"too many files":         many,
	} {
		if _, _, err := extract(bytes.NewReader(packed(t, list, ""))); !errors.Is(err, ErrDamaged) {
			t.Errorf("%s: got error %v, want %v", name, err, ErrDamaged)
		}
	}
	if _, got, err := extract(bytes.NewReader(packed(t, with(), ""))); err != nil || got[StateDB] != "rows" {
		t.Errorf("a backup that is right: %v", err)
	}
	if _, _, err := extract(bytes.NewReader(packed(t, with(), strings.Repeat("x", 1<<20)))); !errors.Is(err, ErrDamaged) {
		t.Errorf("a tail: got error %v, want %v", err, ErrDamaged)
	}
}

// TestWindowIsBounded: what a reader keeps in memory is not the writer's to choose.
func TestWindowIsBounded(t *testing.T) {
	var out bytes.Buffer
	z, err := zstd.NewWriter(&out, zstd.WithWindowSize(64<<20))
	if err != nil {
		t.Fatal(err)
	}
	if _, err := io.CopyN(z, zeros{}, 65<<20); err != nil {
		t.Fatal(err)
	}
	if err := z.Close(); err != nil {
		t.Fatal(err)
	}
	if _, _, err := extract(&out); !errors.Is(err, ErrDamaged) || !errors.Is(err, zstd.ErrWindowSizeExceeded) {
		t.Errorf("got error %v, want %v", err, zstd.ErrWindowSizeExceeded)
	}
}

type zeros struct{}

func (zeros) Read(b []byte) (int, error) {
	clear(b)
	return len(b), nil
}

func TestWriterRefuses(t *testing.T) {
	key := newKey(t)
	for name, want := range map[string]string{
		"server/db/etcd": "has no place in one", "etc/passwd": "has no place in one", "server/../x": "has no place in one",
		"server/short": "has 1 bytes, want 5",
	} {
		w, err := NewWriter(io.Discard, info(), key.Recipient())
		if err != nil {
			t.Fatal(err)
		}
		if err := w.Add(name, 5, strings.NewReader("x")); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: got error %v, want %q", name, err, want)
		}
	}
	if _, err := NewWriter(io.Discard, info()); err == nil {
		t.Error("no error for a backup without recipients")
	}
}

func FuzzExtract(f *testing.F) {
	key := newKey(f)
	plainOf := func(b []byte) []byte {
		r, err := Decrypt(bytes.NewReader(b), key)
		if err != nil {
			f.Fatal(err)
		}
		text, err := io.ReadAll(r)
		if err != nil {
			f.Fatal(err)
		}
		return text
	}
	f.Add(plainOf(write(f, key, files())))
	f.Add(packed(f, []member{plain(infoName, "{}")}, ""))
	f.Fuzz(func(t *testing.T, b []byte) {
		i, got, err := extract(bytes.NewReader(b))
		if err != nil {
			if !errors.Is(err, ErrDamaged) {
				t.Errorf("got error %v, want %v", err, ErrDamaged)
			}
			return
		}
		for name := range got {
			if _, ok := allowed(name); !ok {
				t.Errorf("%q of %+v has no place in a backup", name, i)
			}
		}
	})
}

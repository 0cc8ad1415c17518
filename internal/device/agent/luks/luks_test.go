package luks

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/pikelet-os/pikelet/internal/shared/hint"
)

// fake notes how programs are called, and answers.
type fake struct {
	calls []string // each with what it got by standard input after a <
	out   string
	err   error
}

func (f *fake) program(t *testing.T) Program { return Program{run: f.run, sys: t.TempDir()} }

func (f *fake) run(stdin []byte, name string, args ...string) (string, error) {
	f.calls = append(f.calls, name+" "+strings.Join(args, " ")+" < "+string(stdin))
	return f.out, f.err
}

// exit returns what a program gives that ends with a status.
func exit(t *testing.T, status int) error {
	t.Helper()
	err := exec.Command("sh", "-c", fmt.Sprint("exit ", status)).Run()
	if err == nil {
		t.Fatal("sh did not fail")
	}
	return fmt.Errorf("cryptsetup: %w: ", err)
}

const (
	uuid   = "6e3b8f0a-2a54-4c1f-9d0e-7c1b8a5d2f43"
	secret = "00112233445566778899aabbccddeeff00112233445566778899aabbccddeeff"
)

// TestKeysAreNoArguments: what opens a disk reaches cryptsetup by its standard
// input alone.
func TestKeysAreNoArguments(t *testing.T) {
	f := &fake{}
	p := f.program(t)
	for _, typed := range []bool{false, true} {
		key := Key{[]byte(secret), typed}
		if err := errors.Join(p.Format("/dev/x", 200<<20, uuid, "attic", key), p.Open("/dev/x", key)); err != nil {
			t.Fatal(err)
		}
	}
	seen := 0
	for _, c := range f.calls {
		args, stdin, _ := strings.Cut(c, " < ")
		if strings.Contains(args, secret) {
			t.Errorf("everybody on the node reads the key in %s", args)
		}
		if strings.HasPrefix(c, "modprobe") {
			continue
		}
		seen++
		if stdin != secret || !strings.HasPrefix(c, "cryptsetup --batch-mode ") || !strings.Contains(args, " --key-file - ") {
			t.Errorf("%s: the standard input is %q", args, stdin)
		}
	}
	if seen != 4 {
		t.Errorf("%d calls: %q", seen, f.calls)
	}
}

func TestCommands(t *testing.T) {
	f := &fake{}
	p := f.program(t)
	if err := p.Open("/dev/x", Key{Secret: []byte("k")}); err != nil {
		t.Fatal(err)
	}
	if err := p.SetLabel("/dev/x", "attic"); err != nil {
		t.Fatal(err)
	}
	if err := p.Close(); err != nil { // it is not open
		t.Fatal(err)
	}
	for i, other := range []string{"other", name} {
		dir := filepath.Join(p.sys, "block", fmt.Sprint("dm-", i), "dm")
		if err := os.MkdirAll(dir, 0o755); err != nil {
			t.Fatal(err)
		}
		if p.IsOpen() {
			t.Error("another mapping is taken for the volume's")
		}
		if err := os.WriteFile(filepath.Join(dir, "name"), []byte(other+"\n"), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	if err := p.Close(); err != nil || !p.IsOpen() {
		t.Fatal(err)
	}
	want := "cryptsetup --batch-mode open --type luks2 --key-file - /dev/x pikelet-volume < k|" +
		"cryptsetup --batch-mode config --label attic /dev/x < |cryptsetup --batch-mode close pikelet-volume < "
	if got := strings.Join(f.calls, "|"); got != want {
		t.Errorf("got  %s\nwant %s", got, want)
	}
}

func TestErrors(t *testing.T) {
	for _, c := range []struct {
		err  error
		want error
	}{
		{exit(t, 2), ErrKey},
		{fmt.Errorf("cryptsetup: %w: ", &exec.Error{Name: "cryptsetup", Err: exec.ErrNotFound}), ErrMissing},
	} {
		f := &fake{err: c.err}
		if err := f.program(t).Open("/dev/x", Key{}); !errors.Is(err, c.want) {
			t.Errorf("%v: %v", c.err, err)
		}
	}
	f := &fake{err: exit(t, 4)}
	if err := f.program(t).Open("/dev/x", Key{}); err == nil || errors.Is(err, ErrKey) || errors.Is(err, ErrMissing) {
		t.Errorf("another status: %v", err)
	}
}

// The features of a Pi 4 and of a Pi 5, as the kernel lists them.
const (
	pi4 = "processor\t: 0\nBogoMIPS\t: 108.00\nFeatures\t: fp asimd evtstrm crc32 cpuid\n"
	pi5 = "processor\t: 0\nFeatures\t: fp asimd evtstrm aes pmull sha1 sha2 crc32 atomics fphp asimdhp cpuid\n"
)

func TestCipher(t *testing.T) {
	for _, c := range []struct {
		cpu      string
		adiantum bool
		size     int64
		want     string
	}{
		{pi5, false, 1 << 30, "--cipher aes-xts-plain64 --key-size 512"},
		{pi5, true, 1 << 30, "--cipher aes-xts-plain64 --key-size 512"},
		{pi4, false, 1 << 30, "--cipher aes-xts-plain64 --key-size 512"},
		{pi4, true, 1 << 30, "--cipher xchacha12,aes-adiantum-plain64 --key-size 256 --sector-size 4096"},
		{pi4, true, 1<<30 + 512, "--cipher xchacha12,aes-adiantum-plain64 --key-size 256"},
		{"", true, 1 << 30, "--cipher xchacha12,aes-adiantum-plain64 --key-size 256 --sector-size 4096"},
	} {
		if got := strings.Join(cipher(hasAES(c.cpu), c.adiantum, c.size), " "); got != c.want {
			t.Errorf("%q, adiantum %v: got %s, want %s", c.cpu, c.adiantum, got, c.want)
		}
	}
}

// TestPassphrasesAreSlow: what a person thought of is not derived as fast as
// random bits are.
func TestPassphrasesAreSlow(t *testing.T) {
	got := strings.Join(derivation(Key{Secret: []byte(secret), Typed: true}), " ")
	if !strings.Contains(got, "argon2id") || !strings.Contains(got, "--pbkdf-memory 65536 ") {
		t.Errorf("a passphrase: %s", got)
	}
	if got = strings.Join(derivation(Key{}), " "); !strings.Contains(got, "pbkdf2") {
		t.Errorf("random bits: %s", got)
	}
}

// TestRealCryptsetup lets cryptsetup make a header as we do, in a file.
func TestRealCryptsetup(t *testing.T) {
	if testing.Short() {
		t.Skip("it runs cryptsetup")
	}
	file := filepath.Join(t.TempDir(), "disk")
	if err := os.WriteFile(file, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.Truncate(file, 64<<20); err != nil {
		t.Fatal(err)
	}
	p := Cryptsetup()
	key := Key{Secret: []byte(secret)}
	if err := p.Format(file, 64<<20, uuid, "pikelet-making", key); err != nil {
		t.Fatal(err)
	}
	if err := p.SetLabel(file, "attic"); err != nil {
		t.Fatal(err)
	}
	out, err := exec.Command("cryptsetup", "luksDump", file).CombinedOutput()
	if err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	for _, want := range []string{uuid, "attic", "offset: 16777216 [bytes]", "pbkdf2"} {
		if !strings.Contains(string(out), want) {
			t.Errorf("the header has no %s:\n%s", want, out)
		}
	}
	cmd := exec.Command("cryptsetup", "open", "--test-passphrase", "--key-file", "-", file)
	cmd.Stdin = strings.NewReader(secret)
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Errorf("the key does not open it: %v: %s", err, out)
	}
	if err := p.cryptsetup([]byte("wrong"), "open", "--test-passphrase", "--key-file", "-", file); !errors.Is(err, ErrKey) {
		t.Errorf("a wrong key: %v", err)
	}
}

func TestBoardKey(t *testing.T) {
	f := &fake{out: secret + "\n"}
	key, err := f.program(t).BoardKey(uuid)
	if err != nil || string(key.Secret) != secret || key.Typed {
		t.Errorf("got %q, %v", key.Secret, err)
	}
	want := "rpi-fw-crypto hmac --in /proc/self/fd/0 --key-id 1 --outform hex < pikelet volume 1 " + uuid + "\n"
	if len(f.calls) != 1 || f.calls[0] != want {
		t.Errorf("got %q, want %q", f.calls, want)
	}
}

// TestNoBoardKey: what is no whole key opens nothing, and no error quotes a part
// of one.
func TestNoBoardKey(t *testing.T) {
	for _, c := range []struct {
		out  string
		err  error
		want string
	}{
		{"", exec.ErrNotFound, "this image has no rpi-fw-crypto"},
		{"", nil, "64 hexadecimal digits"},
		{secret[:63], nil, "64 hexadecimal digits"},
		{strings.ToUpper(secret), nil, "64 hexadecimal digits"},
		{secret + "\n" + secret, nil, "64 hexadecimal digits"},
		{secret, errors.New("exit status 6: " + secret + " Last crypto error: 6"), "Last crypto error: 6"},
	} {
		f := &fake{out: c.out, err: c.err}
		key, err := f.program(t).BoardKey(uuid)
		if err == nil || !strings.Contains(err.Error(), c.want) || key.Secret != nil {
			t.Errorf("%q, %v: got %q, %v", c.out, c.err, key.Secret, err)
			continue
		}
		if text := err.Error() + strings.Join(hint.Of(err), ""); strings.Contains(text, secret[:32]) {
			t.Errorf("the error quotes the key: %s", text)
		}
		if len(hint.Of(err)) == 0 {
			t.Errorf("%v: no advice", err)
		}
	}
}

package volume

import (
	"errors"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"github.com/pikelet-os/pikelet/internal/device/agent/luks"
	"github.com/pikelet-os/pikelet/internal/shared/hint"
	"github.com/pikelet-os/pikelet/internal/shared/nodeconfig"
)

// fakeLUKS notes what is asked of it.
type fakeLUKS struct {
	calls  []string
	opens  string // the secret that opens the disk
	isOpen bool
	format error
	board  error
}

func (f *fakeLUKS) Format(dev string, _ int64, uuid, label string, key luks.Key) error {
	f.calls = append(f.calls, "format "+label)
	if f.format == nil {
		f.opens = string(key.Secret)
	}
	return f.format
}

func (f *fakeLUKS) Open(_ string, key luks.Key) error {
	f.calls = append(f.calls, "open")
	if string(key.Secret) != f.opens {
		return luks.ErrKey
	}
	f.isOpen = true
	return nil
}

func (f *fakeLUKS) Close() error {
	f.calls = append(f.calls, "close")
	f.isOpen = false
	return nil
}

func (f *fakeLUKS) IsOpen() bool { return f.isOpen }

func (f *fakeLUKS) BoardKey(uuid string) (luks.Key, error) {
	return luks.Key{Secret: []byte("board " + uuid)}, f.board
}

var configKey = strings.Repeat("ab", 32)

// TestUnlock: which keys make and open a disk, and that nothing is written before
// there is one.
func TestUnlock(t *testing.T) {
	var (
		byKey        = nodeconfig.Encryption{Key: configKey}
		byBoard      = nodeconfig.Encryption{By: nodeconfig.KeyOfBoard}
		byPassphrase = nodeconfig.Encryption{By: nodeconfig.KeyPassphrase}
		word         = []byte("correct horse battery")
	)
	for _, c := range []struct {
		name   string
		e      nodeconfig.Encryption
		typed  *passphrase
		format bool
		opens  string
		want   string // calls
		err    string
	}{
		{"blank, with a key", byKey, nil, true, "", "begin, format pikelet-making, open", ""},
		{"made with the key", byKey, nil, false, configKey, "open", ""},
		{"made with another key", byKey, nil, false, "other", "open", "the key does not open it"},
		{"no key", nodeconfig.Encryption{}, nil, true, "", "", "the node config has no key"},
		{"blank, with a board", byBoard, nil, true, "", "begin, format pikelet-making, open", ""},
		{"made by the board", byBoard, nil, false, "board uuid-1", "open", ""},
		{"made by another board", byBoard, nil, false, "board uuid-2", "open", "the key does not open it"},
		{"blank, without a passphrase", byPassphrase, nil, true, "", "", "waits for the passphrase that it is to get"},
		{"blank, with a new one", byPassphrase, &passphrase{word, true}, true, "", "begin, format pikelet-making, open", ""},
		{"blank, with an old one", byPassphrase, &passphrase{word, false}, true, "", "", "has no passphrase yet"},
		{"made, without a passphrase", byPassphrase, nil, false, string(word), "", "waits for its passphrase"},
		{"made, with its passphrase", byPassphrase, &passphrase{word, false}, false, string(word), "open", ""},
		{"made, with another", byPassphrase, &passphrase{word, false}, false, "other", "open", "the key does not open it"},
		{"made, with a new one", byPassphrase, &passphrase{word, true}, false, string(word), "", "has a passphrase already"},
	} {
		f := &fakeLUKS{opens: c.opens}
		d := candidate{device: "/dev/x", content: content{LUKS: true, UUID: "uuid-1"}, label: "attic",
			begin: func() error { f.calls = append(f.calls, "begin"); return nil }}
		err := unlock(f, d, c.format, &c.e, c.typed)
		if c.err == "" && err != nil || c.err != "" && (err == nil || !strings.Contains(err.Error(), c.err)) {
			t.Errorf("%s: %v, want %q", c.name, err, c.err)
		}
		if got := strings.Join(f.calls, ", "); got != c.want {
			t.Errorf("%s: got %s, want %s", c.name, got, c.want)
		}
		if err == nil {
			continue
		}
		if !waitingIsNoUse(err) {
			t.Errorf("%s: the start of the system would wait, and nothing come of it", c.name)
		}
		if text := err.Error() + strings.Join(hint.Of(err), ""); strings.Contains(text, configKey) || strings.Contains(text, string(word)) {
			t.Errorf("%s: the error quotes the key: %s", c.name, text)
		}
	}
}

// TestUnlockAgain: a mapping that an earlier try left is closed first, so that the
// key is asked for; one that fails to be made is not opened.
func TestUnlockAgain(t *testing.T) {
	f := &fakeLUKS{opens: configKey, isOpen: true}
	if err := unlock(f, candidate{device: "/dev/x"}, false, &nodeconfig.Encryption{Key: configKey}, nil); err != nil {
		t.Fatal(err)
	}
	if got := strings.Join(f.calls, ", "); got != "close, open" {
		t.Errorf("got %s", got)
	}
	f = &fakeLUKS{format: errors.New("the disk is gone")}
	begin := func() error { return nil }
	err := unlock(f, candidate{device: "/dev/x", begin: begin}, true, &nodeconfig.Encryption{Key: configKey}, nil)
	if got := strings.Join(f.calls, ", "); err == nil || got != "format pikelet-making" {
		t.Errorf("got %s, %v", got, err)
	}
	if waitingIsNoUse(err) {
		t.Error("a disk that fails may come back")
	}
	err = unlock(&fakeLUKS{board: errors.New("none")}, candidate{}, false, &nodeconfig.Encryption{By: nodeconfig.KeyOfBoard}, nil)
	if !waitingIsNoUse(err) {
		t.Errorf("without the board's key: %v", err)
	}
}

func TestReadPassphrase(t *testing.T) {
	long := strings.Repeat("x", maxPassphrase)
	for _, c := range []struct {
		in    string
		isNew bool
		want  string
		err   string
	}{
		{"correct horse\n", true, "correct horse", ""},
		{"correct horse\r\nmore", true, "correct horse", ""},
		{" blanks count ", true, " blanks count ", ""},
		{"short", false, "short", ""},
		{"eleven char", true, "", "it has 11 bytes; want at least 12"},
		{"", false, "", "there is none"},
		{"\nx", false, "", "there is none"},
		{long + "\n", true, long, ""},
		{long + "x\n", true, "", "longer than 512 bytes"},
		{long + long, true, "", "longer than 512 bytes"},
	} {
		got, err := readPassphrase(strings.NewReader(c.in), c.isNew)
		if c.err != "" {
			if err == nil || !strings.Contains(err.Error(), c.err) {
				t.Errorf("%q: %v, want %q", c.in, err, c.err)
			}
			continue
		}
		if err != nil || string(got.text) != c.want || got.new != c.isNew {
			t.Errorf("%q: got %+v, %v", c.in, got, err)
		}
	}
}

func TestNewUUID(t *testing.T) {
	one, two := newUUID(), newUUID()
	if !regexp.MustCompile(`^[0-9a-f]{8}-[0-9a-f]{4}-4[0-9a-f]{3}-[89ab][0-9a-f]{3}-[0-9a-f]{12}$`).MatchString(one) || one == two {
		t.Errorf("got %s and %s", one, two)
	}
}

// TestEncryptionIsDecidedByTheConfig: no encrypted volume is taken for one that is
// not, or the other way round, and neither is formatted.
func TestEncryptionIsDecidedByTheConfig(t *testing.T) {
	header := func(label string) content {
		head := make([]byte, extHead)
		copy(head, "LUKS\xba\xbe\x00\x02")
		copy(head[24:], label)
		copy(head[168:], "6e3b8f0a-2a54-4c1f-9d0e-7c1b8a5d2f43")
		c, known := knownContent(head)
		if !known || !c.LUKS || c.Label != label || c.UUID != "6e3b8f0a-2a54-4c1f-9d0e-7c1b8a5d2f43" {
			t.Fatalf("got %+v", c)
		}
		return c
	}
	plain := content{Ext4: true, Label: "attic"}
	for _, c := range []struct {
		c         content
		encrypted bool
		want      string // the error; "" uses it
	}{
		{header("attic"), true, ""},
		{header("attic"), false, "encrypted, and the config says no encryption"},
		{header("cellar"), true, `labelled "cellar", and this node's volume would be labelled attic`},
		{header("cellar"), false, `labelled "cellar", and this node's volume would be labelled attic`},
		{header(""), true, "an encrypted disk (LUKS)"},
		{header(makingLabel), true, makingLabel},
		{plain, false, ""},
		{plain, true, "not encrypted, and the config says encryption"},
	} {
		format, err := c.c.mayUse("/dev/x", "attic", true, c.encrypted)
		if format || c.want == "" && err != nil || c.want != "" && (err == nil || !strings.Contains(err.Error(), c.want)) {
			t.Errorf("%s, encrypted %v: %v, %v, want %q", c.c.What, c.encrypted, format, err, c.want)
		}
	}
	for label, want := range map[string]bool{"attic": true, makingLabel: true, "cellar": false, "": false} {
		if err := header(label).mayWipe("/dev/x", "attic"); (err == nil) != want {
			t.Errorf("wiping a LUKS disk labelled %q: %v", label, err)
		}
	}
	// What has the label was made to the end, however the config has changed since.
	for _, c := range []struct {
		c                  content
		noted, formatBlank bool
		want               bool
	}{
		{header(makingLabel), true, true, true},
		{header(makingLabel), false, true, false},
		{header(makingLabel), true, false, false},
		{content{What: "a header that was cut off"}, true, true, true},
		{content{Blank: true}, true, true, true},
		{header("attic"), true, true, false},
		{plain, true, true, false},
	} {
		if got := c.c.halfMade(c.noted, "attic", c.formatBlank); got != c.want {
			t.Errorf("%s, noted %v, format: blank %v: it is made again: %v", c.c.What, c.noted, c.formatBlank, got)
		}
	}
}

// TestBlank: the header of an encrypted disk, its keys included, is overwritten.
func TestBlank(t *testing.T) {
	if blankEnds < luks.HeaderSize {
		t.Errorf("only %d bytes are overwritten, and keys lie in the first %d", blankEnds, luks.HeaderSize)
	}
	name := filepath.Join(t.TempDir(), "disk")
	if err := os.WriteFile(name, []byte(strings.Repeat("x", 40<<20)), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := blank(name); err != nil {
		t.Fatal(err)
	}
	f, err := os.Open(name)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	if c, err := identify(f, 40<<20); err != nil || !c.Blank {
		t.Errorf("it holds %s (%v)", c.What, err)
	}
}

// TestDiskBelowAMapping: the device of an encrypted volume stays when its disk is
// pulled, and the disk is gone all the same.
func TestDiskBelowAMapping(t *testing.T) {
	sys := t.TempDir()
	for _, dir := range []string{"dev/block/8:16", "dev/block/254:0/dm", "dev/block/254:0/slaves", "devices/sdb",
		"dev/block/254:1/dm", "dev/block/254:1/slaves"} {
		if err := os.MkdirAll(filepath.Join(sys, dir), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.Symlink(filepath.Join(sys, "devices/sdb"), filepath.Join(sys, "dev/block/254:0/slaves/sdb")); err != nil {
		t.Fatal(err)
	}
	check := func(device string, want bool) {
		t.Helper()
		if got := deviceIn(sys, device); got != want {
			t.Errorf("%s is there: %v", device, got)
		}
	}
	check("8:16", true)
	check("8:32", false)
	check("254:0", true)
	check("254:1", false)
	if err := os.Remove(filepath.Join(sys, "devices/sdb")); err != nil {
		t.Fatal(err)
	}
	check("254:0", false)
}

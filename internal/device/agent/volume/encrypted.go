package volume

import (
	"bytes"
	"crypto/rand"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"strings"

	"github.com/pikelet-os/pikelet/internal/device/agent/luks"
	"github.com/pikelet-os/pikelet/internal/device/agent/mounts"
	"github.com/pikelet-os/pikelet/internal/device/agent/runfiles"
	"github.com/pikelet-os/pikelet/internal/shared/hint"
	"github.com/pikelet-os/pikelet/internal/shared/node"
	"github.com/pikelet-os/pikelet/internal/shared/nodeconfig"
)

// passphrase is one that was typed.
type passphrase struct {
	text []byte
	new  bool // it is to be that of a disk which has none yet
}

// minPassphrase and maxPassphrase bound a new passphrase, bytes. cryptsetup
// reads at most 512 of a terminal, where one may want to type it one day.
const (
	minPassphrase = 12
	maxPassphrase = 512
)

// errNoKey says that nothing can open the volume as things are.
var errNoKey = errors.New("no key for the volume")

// noKey is an error that trying again does not cure.
type noKey struct{ error }

func (noKey) Is(target error) bool { return target == errNoKey }
func (e noKey) Unwrap() error      { return e.error }

// waitingIsNoUse reports whether an encrypted volume stays closed however often
// it is tried, until a person does something.
func waitingIsNoUse(err error) bool {
	return errors.Is(err, errNoKey) || errors.Is(err, luks.ErrKey) || errors.Is(err, luks.ErrMissing)
}

// program is what unlock needs of luks.Program.
type program interface {
	Format(dev string, size int64, uuid, label string, key luks.Key) error
	Open(dev string, key luks.Key) error
	Close() error
	IsOpen() bool
	BoardKey(uuid string) (luks.Key, error)
}

// unlock opens the encrypted disk, which it makes first if format says so.
func unlock(l program, d candidate, format bool, e *nodeconfig.Encryption, typed *passphrase) error {
	if l.IsOpen() {
		if mounts.Mounted(node.VolumeDir) {
			return nil
		}
		if err := l.Close(); err != nil { // what was begun and not ended
			return err
		}
	}
	uuid := d.content.UUID
	if format {
		uuid = newUUID()
	}
	key, err := keyOf(l, d.device, uuid, format, e, typed)
	if err != nil {
		return err
	}
	if format {
		if err := d.begin(); err != nil {
			return err
		}
		if err := l.Format(d.device, d.size, uuid, makingLabel, key); err != nil {
			return err
		}
	}
	if err := l.Open(d.device, key); err != nil {
		if errors.Is(err, luks.ErrKey) {
			return hint.With(err, wrongKey[e.Source()])
		}
		return err
	}
	return nil
}

// wrongKey is the advice for a key that does not open the disk.
var wrongKey = map[string]string{
	nodeconfig.KeyInConfig: "volume.encryption.key is not the one that the volume was made with",
	nodeconfig.KeyOfBoard: "the volume was made by another board, or this one's secret has changed; " +
		"without that key its data are lost",
	nodeconfig.KeyPassphrase: "try again",
}

// keyOf returns what opens the disk with a UUID.
func keyOf(l program, device, uuid string, format bool, e *nodeconfig.Encryption, typed *passphrase) (luks.Key, error) {
	switch e.Source() {
	case nodeconfig.KeyOfBoard:
		key, err := l.BoardKey(uuid)
		if err != nil {
			return key, noKey{err}
		}
		return key, nil
	case nodeconfig.KeyPassphrase:
		switch {
		case typed == nil && format:
			return luks.Key{}, noKey{hint.With(fmt.Errorf("%s is blank, and waits for the passphrase that it is to get", device),
				"pikelet unlock --new HOST, or on the node pikeletd volume unlock --new")}
		case typed == nil:
			return luks.Key{}, noKey{hint.With(errors.New("the volume waits for its passphrase"),
				"pikelet unlock HOST, or on the node pikeletd volume unlock")}
		case typed.new && !format:
			return luks.Key{}, noKey{fmt.Errorf("%s has a passphrase already, so this is no new one", device)}
		case format && !typed.new:
			return luks.Key{}, noKey{hint.With(fmt.Errorf("%s is blank, and has no passphrase yet", device),
				"pikelet unlock --new HOST sets one")}
		}
		return luks.Key{Secret: typed.text, Typed: true}, nil
	}
	if e.Key == "" {
		return luks.Key{}, noKey{hint.With(errors.New("the volume is encrypted, and the node config has no key"), "set volume.encryption.key")}
	}
	return luks.Key{Secret: []byte(e.Key)}, nil
}

// newUUID returns a random UUID (RFC 9562 5.4).
func newUUID() string {
	var b [16]byte
	_, _ = rand.Read(b[:]) // it never fails
	b[6], b[8] = b[6]&0x0f|0x40, b[8]&0x3f|0x80
	return fmt.Sprintf("%x-%x-%x-%x-%x", b[:4], b[4:6], b[6:8], b[8:10], b[10:])
}

// readPassphrase reads a passphrase, up to the end of its line.
func readPassphrase(in io.Reader, isNew bool) (*passphrase, error) {
	b, err := io.ReadAll(io.LimitReader(in, maxPassphrase+2))
	if err != nil {
		return nil, fmt.Errorf("reading the passphrase: %w", err)
	}
	b, _, _ = bytes.Cut(b, []byte("\n"))
	switch b = bytes.TrimSuffix(b, []byte("\r")); {
	case len(b) == 0:
		return nil, errors.New("reading the passphrase: there is none")
	case len(b) > maxPassphrase:
		return nil, fmt.Errorf("reading the passphrase: it is longer than %d bytes", maxPassphrase)
	case isNew && len(b) < minPassphrase:
		return nil, fmt.Errorf("reading the passphrase: it has %d bytes; want at least %d", len(b), minPassphrase)
	}
	return &passphrase{b, isNew}, nil
}

// Unlock opens a volume that waits for a passphrase with the one from in. isNew
// says that it is to be that of a blank disk.
func Unlock(in io.Reader, out io.Writer, isNew bool, log *slog.Logger) error {
	cfg, err := runfiles.Config()
	if err != nil {
		return err
	}
	if e := cfg.Volume.Encryption; e == nil || e.Source() != nodeconfig.KeyPassphrase {
		return errors.New("the volume of this node is not opened by a passphrase")
	}
	v, err := runfiles.Volume()
	if err != nil {
		return err
	}
	switch {
	case v.Mounted:
		return errors.New("the volume is open already")
	case v.Waiting == stopped:
		return hint.With(errors.New(stopped), "start it with rc-service pikelet-volume start")
	}
	typed, err := readPassphrase(in, isNew)
	if err != nil {
		return err
	}
	if v, err = try(log, typed); err != nil {
		return err
	}
	if !v.Mounted {
		return errors.New(strings.TrimSpace(v.Waiting))
	}
	_, err = fmt.Fprintln(out, "the volume is open")
	return err
}

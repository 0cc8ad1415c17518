package prepare

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"strings"
	"time"

	"github.com/pikelet-os/pikelet/boards"
	"github.com/pikelet-os/pikelet/internal/device/agent/advice"
	"github.com/pikelet-os/pikelet/internal/device/agent/card"
	"github.com/pikelet-os/pikelet/internal/device/agent/machine"
	"github.com/pikelet-os/pikelet/internal/device/agent/runfiles"
	"github.com/pikelet-os/pikelet/internal/device/agent/statefile"
	"github.com/pikelet-os/pikelet/internal/shared/fat"
	"github.com/pikelet-os/pikelet/internal/shared/hint"
	"github.com/pikelet-os/pikelet/internal/shared/node"
	"github.com/pikelet-os/pikelet/internal/shared/nodeconfig"
	"github.com/pikelet-os/pikelet/internal/shared/slots"
	"github.com/pikelet-os/pikelet/internal/shared/yamlcheck"
)

// controlFiles is what a config needs of the control partition.
type controlFiles interface {
	ReadControl(name string) ([]byte, error)
	// scrub overwrites a file with text and takes what was there off the card.
	Scrub(name, text string) error
}

// configs is where a node finds its config.
type configs struct {
	card      controlFiles // nil without a card
	served    string       // what the boot server gave
	kept      string       // what was taken last
	inventory string       // the image's
	trial     string       // the record of one that is tried
	lock      string
}

func sources(c *card.Card) configs {
	all := configs{
		served: node.ServedFile, kept: node.ConfigFile, inventory: node.InventoryFile, trial: node.ConfigTrialFile, lock: node.ConfigLock,
	}
	if c != nil {
		all.card = c
	}
	return all
}

// take returns the config of this node: the one on the control partition if that
// is new and valid, else one that is to be tried, else the one that was taken last,
// laid over the image's own inventory. An invalid config is left where it is, for its author to mend, and
// the last valid one is used.
func (p configs) take(m nodeconfig.Machine, state node.StateStatus) (*nodeconfig.Config, node.ConfigStatus) {
	st := node.ConfigStatus{Source: node.FromNone}
	refuse := func(err error) {
		if st.Refused != "" {
			st.Refused += "\n"
		}
		st.Refused += advice.Text(err)
	}
	inventory, err := p.readInventory()
	if err != nil {
		refuse(err)
	}
	if text, err := os.ReadFile(p.served); err == nil {
		// A node without a card has what its server says, and nothing older.
		cfg, err := over(inventory, m, "the config of the boot server", text)
		if err == nil {
			st.Source, st.Taken = node.FromServer, time.Now().Unix()
			return cfg, st
		}
		refuse(err)
	}
	for _, from := range p.onCard(m) {
		var cfg *nodeconfig.Config
		if from.err == nil {
			cfg, from.err = over(inventory, m, from.file, from.text)
		}
		if from.err != nil {
			refuse(from.err)
			continue
		}
		st.Source, st.Taken, st.Digest = node.FromCard, time.Now().Unix(), node.ConfigDigest(string(from.text))
		if err := p.keep(from.text, state); err != nil {
			refuse(fmt.Errorf("the config on the card counts for this boot, and stays there: %w", err))
		}
		return cfg, st
	}
	cfg, trial, err := p.tried(inventory, m)
	if err != nil {
		refuse(err)
	}
	if cfg != nil {
		st.Source, st.Taken, st.Digest = node.FromTrial, time.Now().Unix(), trial.Digest
		return cfg, st
	}
	kept, err := os.ReadFile(p.kept)
	if err == nil {
		st.Digest = node.ConfigDigest(string(kept))
		cfg, err := nodeconfig.Over(inventory, m, p.kept, kept, false)
		if err != nil {
			refuse(err)
			var mistakes *yamlcheck.Error
			unknown := errors.As(err, &mistakes) && mistakes.Unknown
			// It was good for the image that took it. What this one does not
			// take it does without, rather than without all of it.
			cfg, err = nodeconfig.Over(inventory, m, p.kept, kept, true)
			st.Partial = err == nil && !unknown
		}
		if err == nil {
			st.Source = node.FromState
			if info, err := os.Stat(p.kept); err == nil {
				st.Taken = info.ModTime().Unix()
			}
			return cfg, st
		}
	} else if !errors.Is(err, fs.ErrNotExist) {
		refuse(err)
	}
	if inventory != nil {
		cfg, err := nodeconfig.Over(inventory, m, p.inventory, nil, false)
		if err == nil {
			if _, err := inventory.Find(m); err == nil {
				st.Source = node.FromImage
			}
			return cfg, st
		}
		refuse(err)
	}
	return &nodeconfig.Config{}, st
}

// delivered is a config that somebody put onto the card.
type delivered struct {
	file string
	text []byte
	err  error // why there is no text
}

// onCard returns the configs on the control partition: node.yaml, and this node's own of
// the inventory nodes.yaml, which people put there by hand. The first that is good counts.
func (p configs) onCard(m nodeconfig.Machine) (list []delivered) {
	if p.card == nil {
		return nil
	}
	text, err := p.card.ReadControl(slots.NodeFile)
	if err != nil || !nodeconfig.Blank(text) {
		list = append(list, delivered{slots.NodeFile, text, err})
	}
	text, err = p.card.ReadControl(slots.NodesFile)
	var none *fat.NotFoundError
	if errors.As(err, &none) || err == nil && nodeconfig.Blank(text) {
		return list
	}
	if err == nil {
		var d *nodeconfig.Document
		if d, err = nodeconfig.Load(slots.NodesFile, bytes.TrimRight(text, "\x00"), boards.Names(), false); err == nil {
			text, err = d.Own(m)
		}
	}
	return append(list, delivered{slots.NodesFile, text, err})
}

// takeSent takes a config that was sent over SSH. It is kept on state when it
// is good, and counts from the next boot on. Whoever may send one is root: it
// may hold anything.
func (p configs) takeSent(in io.Reader, out io.Writer, m nodeconfig.Machine, state node.StateStatus) error {
	text, err := p.readSent(in, m, state)
	if err != nil {
		return err
	}
	unlock, err := p.lockForSent()
	if err != nil {
		return err
	}
	defer unlock()
	if err := statefile.Write(p.kept, text); err != nil {
		return err
	}
	if err := p.overridden(sentOverrode); err != nil {
		return err
	}
	fmt.Fprintln(out, "taken; it counts from the next boot on: pikeletd reboot")
	return nil
}

// readSent reads a config that was sent, and checks that it is good for this node and
// can be kept.
func (p configs) readSent(in io.Reader, m nodeconfig.Machine, state node.StateStatus) ([]byte, error) {
	text, err := io.ReadAll(io.LimitReader(in, nodeconfig.MaxSize+1))
	if err != nil {
		return nil, err
	}
	if len(text) > nodeconfig.MaxSize {
		return nil, fmt.Errorf("the config has more than %d bytes", nodeconfig.MaxSize)
	}
	if nodeconfig.Blank(text) {
		return nil, hint.With(errors.New("the config that was sent is empty"), "pikeletd reset forgets the one that is there")
	}
	inventory, err := p.readInventory()
	if err != nil {
		return nil, err
	}
	if _, err := over(inventory, m, slots.NodeFile, text); err != nil {
		return nil, err
	}
	if state.Memory != "" {
		return nil, errForgets
	}
	return text, nil
}

// TakeSent is the verb config: the config on in, for the next boot.
func TakeSent(in io.Reader, out io.Writer) error {
	p, err := runfiles.Prepared()
	if err != nil {
		return err
	}
	return sources(nil).takeSent(in, out, machine.This(), p.State)
}

var errForgets = errors.New("state is in memory, and would forget the config")

// over reads a config that reaches the node, strictly.
func over(inventory *nodeconfig.Document, m nodeconfig.Machine, file string, text []byte) (*nodeconfig.Config, error) {
	cfg, err := nodeconfig.Over(inventory, m, file, text, false)
	if err == nil {
		if err = clearOf(cfg); err != nil {
			err = fmt.Errorf("%s: %w", file, err)
		}
	}
	return cfg, err
}

// clearOf refuses secrets that only the desk can decrypt.
func clearOf(cfg *nodeconfig.Config) error {
	for _, s := range cfg.Secrets() {
		if nodeconfig.IsEncrypted(*s.Value) {
			return hint.With(fmt.Errorf("%s is still encrypted", s.Field),
				"write the config to the card with its identity file at hand, which decrypts it")
		}
	}
	return nil
}

// readInventory returns the inventory in the image, or nil where it has none.
func (p configs) readInventory() (*nodeconfig.Document, error) {
	b, err := os.ReadFile(p.inventory)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	return nodeconfig.Load(p.inventory, b, boards.Names(), true)
}

// keep moves a config from the control partition, which any computer reads, to
// state. Only when it is safe there does it leave the card. An inventory goes with
// it, and first: a later boot would take it in place of what counts now.
func (p configs) keep(text []byte, state node.StateStatus) error {
	if state.Memory != "" {
		return errForgets
	}
	if err := statefile.Write(p.kept, []byte(strings.TrimRight(string(text), "\x00\n")+"\n")); err != nil {
		return err
	}
	if err := p.overridden(cardOverrode); err != nil {
		return err
	}
	for _, name := range []string{slots.NodesFile, slots.NodeFile} {
		text, err := p.card.ReadControl(name)
		if err == nil && !nodeconfig.Blank(text) {
			err = p.card.Scrub(name, nodeconfig.Taken)
		}
		var none *fat.NotFoundError
		if err != nil && !errors.As(err, &none) {
			return err
		}
	}
	return nil
}

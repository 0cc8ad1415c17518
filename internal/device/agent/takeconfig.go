package agent

import (
	"crypto/rand"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/pikelet-os/pikelet/boards"
	"github.com/pikelet-os/pikelet/internal/shared/atomicfile"
	"github.com/pikelet-os/pikelet/internal/shared/cmdline"
	"github.com/pikelet-os/pikelet/internal/shared/node"
	"github.com/pikelet-os/pikelet/internal/shared/nodeconfig"
	"github.com/pikelet-os/pikelet/internal/shared/slots"
	"github.com/pikelet-os/pikelet/internal/shared/yamlcheck"
)

// controlFiles is what a config needs of the control partition.
type controlFiles interface {
	readControl(name string) ([]byte, error)
	// scrub overwrites a file with text and takes what was there off the card.
	scrub(name, text string) error
}

// configs is where a node finds its config.
type configs struct {
	card      controlFiles // nil without a card
	served    string       // what the boot server gave
	kept      string       // what was taken last
	inventory string       // the image's
}

func nodeConfigs(c *card) configs {
	all := configs{served: node.ServedFile, kept: node.ConfigFile, inventory: node.InventoryFile}
	if c != nil {
		all.card = c
	}
	return all
}

// take finds out what this node is to be: what the desk wrote on the control
// partition if that is new and good, else what it took last, laid over what
// the image's own inventory says. A config that is wrong is left where it is,
// for whoever wrote it to mend, and the last good one counts.
func (p configs) take(m nodeconfig.Machine, state node.StateStatus) (*nodeconfig.Config, node.ConfigStatus) {
	st := node.ConfigStatus{Source: node.FromNone}
	refuse := func(err error) {
		if st.Refused != "" {
			st.Refused += "\n"
		}
		st.Refused += err.Error()
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
	if p.card != nil {
		text, err := p.card.readControl(slots.NodeFile)
		if err == nil && !nodeconfig.Blank(text) {
			var cfg *nodeconfig.Config
			if cfg, err = over(inventory, m, slots.NodeFile, text); err == nil {
				st.Source, st.Taken = node.FromCard, time.Now().Unix()
				if err := p.keep(text, state); err != nil {
					refuse(fmt.Errorf("the config on the card counts for this boot, and stays there: %w", err))
				}
				return cfg, st
			}
		}
		if err != nil {
			refuse(err)
		}
	}
	kept, err := os.ReadFile(p.kept)
	if err == nil {
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

// takeSent takes a config that was sent over SSH. It is kept on state when it
// is good, and counts from the next boot on. Whoever may send one is root: it
// may hold anything.
func (p configs) takeSent(in io.Reader, out io.Writer, m nodeconfig.Machine, state node.StateStatus) error {
	text, err := io.ReadAll(io.LimitReader(in, nodeconfig.MaxSize+1))
	if err != nil {
		return err
	}
	if len(text) > nodeconfig.MaxSize {
		return fmt.Errorf("the config has more than %d bytes", nodeconfig.MaxSize)
	}
	if nodeconfig.Blank(text) {
		return errors.New("there is no config in what was sent; to forget the one that is there: pikeletd reset")
	}
	inventory, err := p.readInventory()
	if err != nil {
		return err
	}
	if _, err := over(inventory, m, slots.NodeFile, text); err != nil {
		return err
	}
	if state.Memory != "" {
		return errForgets
	}
	if err := keep(p.kept, text); err != nil {
		return err
	}
	fmt.Fprintln(out, "taken; it counts from the next boot on: pikeletd reboot")
	return nil
}

var errForgets = errors.New("state is in memory, and would forget it")

// over reads a config that reaches the node, strictly.
func over(inventory *nodeconfig.Document, m nodeconfig.Machine, file string, text []byte) (*nodeconfig.Config, error) {
	cfg, err := nodeconfig.Over(inventory, m, file, text, false)
	if err == nil {
		err = clearOf(cfg)
	}
	return cfg, err
}

// clearOf refuses secrets that only the desk can decrypt.
func clearOf(cfg *nodeconfig.Config) error {
	for _, s := range cfg.Secrets() {
		if strings.HasPrefix(*s.Value, "age:") {
			return fmt.Errorf("%s: %s is still encrypted; pikelet node write decrypts it", slots.NodeFile, s.Field)
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
// state. Only when it is safe there does it leave the card.
func (p configs) keep(text []byte, state node.StateStatus) error {
	if state.Memory != "" {
		return errForgets
	}
	if err := keep(p.kept, []byte(strings.TrimRight(string(text), "\x00\n")+"\n")); err != nil {
		return err
	}
	return p.card.scrub(slots.NodeFile, nodeconfig.Taken)
}

// keep writes a file on state that only root reads: whole or not at all, and
// on the card when it returns.
func keep(name string, b []byte) error {
	if err := os.MkdirAll(filepath.Dir(name), 0o700); err != nil {
		return err
	}
	return atomicfile.Write(name, b, 0o600)
}

// forget removes a file on state; it stays removed after a power cut.
func forget(name string) error {
	err := os.Remove(name)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	return atomicfile.Sync(filepath.Dir(name))
}

// takeSeed returns the seed this node's identity is made of, and where it
// came from: its config, state, or chance.
func takeSeed(cfg *nodeconfig.Config, state node.StateStatus) (seed, from string, err error) {
	if cfg.Seed != "" {
		return cfg.Seed, "config", nil
	}
	if b, err := os.ReadFile(node.SeedFile); err == nil {
		seed = strings.TrimSpace(string(b))
		if _, err := node.NewIdentity("x", seed); err == nil {
			return seed, "state", nil
		}
	}
	b := make([]byte, 32)
	rand.Read(b)
	seed = hex.EncodeToString(b)
	if state.Memory != "" {
		return seed, "made for this boot only, since state is in memory", nil
	}
	return seed, "made on this boot", keep(node.SeedFile, []byte(seed+"\n"))
}

// machine returns what tells this machine from others.
func machine() nodeconfig.Machine {
	m := nodeconfig.Machine{Serial: serial(), MAC: mac(), Board: board()}
	words, _ := os.ReadFile("/proc/cmdline")
	m.Name = cmdline.Value(words, "pikelet.node")
	return m
}

// serial returns the board's serial number, or "" where it has none.
func serial() string {
	b, err := os.ReadFile("/proc/device-tree/serial-number")
	if err != nil {
		return ""
	}
	return strings.ToLower(strings.TrimRight(string(b), "\x00\n"))
}

// mac returns the address of the board's own Ethernet, from the device tree:
// drivers may not be loaded yet (docs/platform.md 4).
func mac() string {
	alias, err := os.ReadFile("/proc/device-tree/aliases/ethernet0")
	if err != nil {
		return ""
	}
	for _, name := range []string{"local-mac-address", "mac-address"} {
		b, err := os.ReadFile("/proc/device-tree" + strings.TrimRight(string(alias), "\x00") + "/" + name)
		if err == nil && len(b) == 6 {
			return fmt.Sprintf("%02x:%02x:%02x:%02x:%02x:%02x", b[0], b[1], b[2], b[3], b[4], b[5])
		}
	}
	return ""
}

// board returns which board this is, by what its device tree says it is
// compatible with; "" for one that is not known.
func board() string {
	b, err := os.ReadFile("/proc/device-tree/compatible")
	if err != nil {
		return ""
	}
	return boards.OfCompatible(strings.Split(string(b), "\x00"))
}

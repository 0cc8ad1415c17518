package prepare

import (
	"crypto/rand"
	"encoding/hex"
	"errors"
	"os"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/pikelet-os/pikelet/internal/device/agent/statefile"
	"github.com/pikelet-os/pikelet/internal/shared/node"
	"github.com/pikelet-os/pikelet/internal/shared/nodeconfig"
)

// takeIdentity derives who this node is, and notes it.
func takeIdentity(b node.Boot, cfg *nodeconfig.Config, p *node.Prepared) (node.Identity, error) {
	p.Hostname = cfg.Hostname
	if p.Hostname == "" {
		p.Hostname = node.DefaultName(b.Stream, p.Serial)
	}
	seed, from, seedErr := takeSeed(cfg, p.State)
	id, err := node.NewIdentity(p.Hostname, seed)
	if err == nil {
		id, err = id.WithBoard(cfg.BoardSeed)
	}
	if err != nil {
		return id, err
	}
	p.Seed, p.HostKey, p.Fingerprint, p.IQN = from, id.PublicKey(), id.Fingerprint(), id.IQN
	if cfg.ISCSI.Initiator != "" {
		p.IQN = cfg.ISCSI.Initiator
	}
	return id, errors.Join(seedErr, unix.Sethostname([]byte(p.Hostname)))
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
	return seed, "made on this boot", statefile.Write(node.SeedFile, []byte(seed+"\n"))
}

package agent

import (
	"context"
	"os"

	"github.com/pikelet-os/pikelet/internal/shared/node"
	"github.com/pikelet-os/pikelet/internal/shared/slots"
)

// concludeUpgrade finds out what this boot means for an upgrade, and does what
// is to be done about it.
func concludeUpgrade(ctx context.Context) error {
	b, err := readBoot()
	if err != nil || b.Slot == slots.Net {
		return err
	}
	u, done, err := newUpdater(b)
	if err != nil {
		return err
	}
	defer done()
	return u.Conclude(ctx)
}

// nowCommitted has the rest of the node know that this boot is no trial any
// more.
func nowCommitted(b node.Boot) error {
	b.Kind = slots.Committed
	text, err := b.Encode()
	if err != nil {
		return err
	}
	if err := replaceFile(node.BootFile, text, 0o644); err != nil {
		return err
	}
	p, err := readPrepared()
	if err != nil {
		return err
	}
	return write("/etc/motd", motd(b, p, isOpen()))
}

func readDefaults() (node.Defaults, error) {
	b, err := os.ReadFile(node.DefaultsFile)
	if err != nil {
		return node.Defaults{}, err
	}
	return node.DecodeDefaults(b)
}

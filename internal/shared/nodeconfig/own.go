package nodeconfig

import (
	"fmt"

	"github.com/pikelet-os/pikelet/internal/shared/hint"
)

// Own returns the config of one machine as a file of its own: what a node keeps of an
// inventory that it finds, without what the others are told. An inventory with a cluster
// secret is refused, because each node would have it, and could derive the seeds of all.
func (f *Document) Own(m Machine) ([]byte, error) {
	i, err := f.Find(m)
	if err != nil {
		return nil, err
	}
	whole := f.top
	if f.Inventory != nil {
		if f.Inventory.ClusterSecret != "" {
			return nil, hint.With(fmt.Errorf("%s: a node takes no inventory with a cluster-secret, from which every node's keys are made", f.file),
				"leave it out, and nodes make keys of their own; or write the config of this node with pikelet node write")
		}
		whole = joined(f.defaults, strip(f.nodes[i]))
	}
	if whole == nil {
		return nil, nil
	}
	cfg := &Config{}
	if err := whole.Decode(cfg); err != nil {
		return nil, fmt.Errorf("%s: %w", f.file, err)
	}
	return cfg.Encode()
}

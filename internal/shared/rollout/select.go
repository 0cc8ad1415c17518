package rollout

import (
	"cmp"
	"slices"
)

// Order returns the nodes that the rollout selects in the order of their turns:
// servers first, each kind by name.
func (r *Rollout) Order(nodes []Node) []*Node {
	var list []*Node
	for i := range nodes {
		n := &nodes[i]
		if r.Selected(n) {
			list = append(list, n)
		}
	}
	slices.SortFunc(list, func(a, b *Node) int {
		if a.Server != b.Server {
			if a.Server {
				return -1
			}
			return 1
		}
		return cmp.Compare(a.Name, b.Name)
	})
	return list
}

// Selected reports whether a node is one of the rollout's.
func (r *Rollout) Selected(n *Node) bool {
	return n.Image != nil && (r.Spec.Selects == nil || r.Spec.Selects(n.Labels))
}

// owner returns the rollout that a node belongs to before this one; nil for none.
func (d *decision) owner(n *Node) *Rollout {
	for _, o := range d.Others {
		before := cmp.Or(o.Created.Compare(d.Created), cmp.Compare(o.UID, d.UID)) < 0
		if before && !o.Deleted && o.Selected(n) {
			return o
		}
	}
	return nil
}

// Runs reports whether a node, which the rollout selects, runs the release and keeps
// it.
func (r *Rollout) Runs(n *Node) bool { return n.Image.Digest == r.Spec.Digest && !n.Image.Trial }

func (d *decision) selected() []*Node { return d.Order(d.Nodes) }

package nodelabels

import (
	"encoding/json"
	"maps"
	"slices"
	"strings"

	"github.com/pikelet-os/pikelet/internal/device/agent/apiserver"
	"github.com/pikelet-os/pikelet/internal/shared/nodeconfig"
)

// Annotations of the Node that hold what a node config once asked for, and that
// the Node has since then: an object of labels, and a list of taints as
// KEY=VALUE:EFFECT.
const (
	labelsAnnotation = "pikelet.dev/labels"
	taintsAnnotation = "pikelet.dev/taints"
)

// wanted is what a node config asks for.
type wanted struct {
	labels map[string]string
	taints []apiserver.Taint
}

func wantedOf(k nodeconfig.K3s) wanted {
	w := wanted{labels: k.Labels}
	for _, text := range k.Taints {
		if t, ok := parseTaint(text); ok {
			w.taints = append(w.taints, t)
		}
	}
	return w
}

// parseTaint reads KEY=VALUE:EFFECT or KEY:EFFECT.
func parseTaint(text string) (apiserver.Taint, bool) {
	rest, effect, ok := strings.Cut(text, ":")
	key, value, _ := strings.Cut(rest, "=")
	return apiserver.Taint{Key: key, Value: value, Effect: effect}, ok && key != "" && effect != ""
}

// same reports whether two taints are one to Kubernetes, which takes only one of
// each key and effect.
func same(a, b apiserver.Taint) bool { return a.Key == b.Key && a.Effect == b.Effect }

func indexOf(list []apiserver.Taint, t apiserver.Taint) int {
	return slices.IndexFunc(list, func(o apiserver.Taint) bool { return same(o, t) })
}

// has reports whether a list has a taint with its value.
func has(list []apiserver.Taint, t apiserver.Taint) bool {
	i := indexOf(list, t)
	return i >= 0 && list[i].Value == t.Value
}

// remembered returns what the annotations of a node hold. One that is damaged
// holds nothing: then nothing is removed.
func remembered(n *apiserver.Node) wanted {
	var w wanted
	if json.Unmarshal([]byte(n.Metadata.Annotations[labelsAnnotation]), &w.labels) != nil {
		w.labels = nil
	}
	// Labels of Kubernetes' own are not the node config's to remove, whatever
	// the annotation says: it refuses them.
	maps.DeleteFunc(w.labels, func(key, value string) bool { return nodeconfig.CheckLabel(key, value) != nil })
	var texts []string
	if json.Unmarshal([]byte(n.Metadata.Annotations[taintsAnnotation]), &texts) == nil {
		for _, text := range texts {
			if t, ok := parseTaint(text); ok {
				w.taints = append(w.taints, t)
			}
		}
	}
	return w
}

// change is what makes a node as a node config has it.
type change struct {
	version string             // of the node that it changes
	labels  map[string]*string // nil removes one
	taints  []apiserver.Taint  // all the node is to have; where setTaints
	set     bool               // whether taints differ
	removed []apiserver.Taint
	added   []apiserver.Taint

	annotations map[string]*string
}

// planFor returns the change from n to what w asks for. What others gave the
// node stays, also where they changed what w's config once asked for. Without
// labels or taints it leaves those as they are, and only notes what is there.
func planFor(n *apiserver.Node, w wanted, labels, taints bool) change {
	was := remembered(n)
	c := change{version: n.Metadata.ResourceVersion, labels: map[string]*string{}, annotations: map[string]*string{}}
	after := maps.Clone(n.Metadata.Labels)
	if after == nil {
		after = map[string]string{}
	}
	if labels {
		c.planLabels(after, was.labels, w.labels)
	}
	list := slices.Clone(n.Spec.Taints)
	if taints {
		list = c.planTaints(list, was.taints, w.taints)
	}
	c.note(n, labelsAnnotation, noteLabels(after, was.labels, w.labels))
	c.note(n, taintsAnnotation, noteTaints(list, was.taints, w.taints))
	return c
}

// planLabels changes after from what was asked for to what is.
func (c *change) planLabels(after, was, want map[string]string) {
	for key, value := range was {
		if _, kept := want[key]; !kept && after[key] == value {
			if _, there := after[key]; there {
				c.labels[key] = nil
				delete(after, key)
			}
		}
	}
	for key, value := range want {
		if have, there := after[key]; !there || have != value {
			c.labels[key] = &value
			after[key] = value
		}
	}
}

// planTaints returns list changed from what was asked for to what is.
func (c *change) planTaints(list, was, want []apiserver.Taint) []apiserver.Taint {
	for _, t := range was {
		if indexOf(want, t) < 0 && has(list, t) {
			c.removed, c.set = append(c.removed, t), true
			list = slices.Delete(list, indexOf(list, t), indexOf(list, t)+1)
		}
	}
	for _, t := range want {
		if has(list, t) {
			continue
		}
		if i := indexOf(list, t); i >= 0 {
			list = slices.Delete(list, i, i+1)
		}
		list = append(list, t)
		c.added, c.set = append(c.added, t), true
	}
	c.taints = list
	return list
}

// noteLabels returns those that were or are asked for and that the node has.
func noteLabels(after, was, want map[string]string) string {
	note := map[string]string{}
	for _, list := range []map[string]string{was, want} {
		for key, value := range list {
			if have, there := after[key]; there && have == value {
				note[key] = value
			}
		}
	}
	if len(note) == 0 {
		return ""
	}
	b, _ := json.Marshal(note) // of strings: cannot fail
	return string(b)
}

// noteTaints returns those that were or are asked for and that the node has.
func noteTaints(list, was, want []apiserver.Taint) string {
	var note []string
	for _, t := range slices.Concat(was, want) {
		if has(list, t) && !slices.Contains(note, t.String()) {
			note = append(note, t.String())
		}
	}
	if len(note) == 0 {
		return ""
	}
	slices.Sort(note)
	b, _ := json.Marshal(note) // of strings: cannot fail
	return string(b)
}

// note sets an annotation where it differs; "" removes it.
func (c *change) note(n *apiserver.Node, name, text string) {
	have, there := n.Metadata.Annotations[name]
	switch {
	case text == "" && there:
		c.annotations[name] = nil
	case text != "" && have != text:
		c.annotations[name] = &text
	}
}

// empty reports whether there is nothing to change.
func (c *change) empty() bool { return len(c.labels)+len(c.annotations) == 0 && !c.set }

// patch returns the change as a JSON merge patch of the version it is for.
func (c *change) patch() map[string]any {
	meta := map[string]any{"resourceVersion": c.version}
	if len(c.labels) > 0 {
		meta["labels"] = c.labels
	}
	if len(c.annotations) > 0 {
		meta["annotations"] = c.annotations
	}
	p := map[string]any{"metadata": meta}
	if c.set {
		taints := c.taints
		if taints == nil {
			taints = []apiserver.Taint{}
		}
		p["spec"] = map[string]any{"taints": taints}
	}
	return p
}

// labelCommand returns how a person changes the labels of a node; "" where none
// differ.
func (c *change) labelCommand(node string) string {
	if len(c.labels) == 0 {
		return ""
	}
	words := []string{"kubectl label node", node, "--overwrite"}
	for _, key := range slices.Sorted(maps.Keys(c.labels)) {
		if v := c.labels[key]; v != nil {
			words = append(words, key+"="+*v)
		} else {
			words = append(words, key+"-")
		}
	}
	return strings.Join(words, " ")
}

// taintCommand returns how a person changes the taints of a node; "" where none
// differ.
func (c *change) taintCommand(node string) string {
	if !c.set {
		return ""
	}
	words := []string{"kubectl taint node", node, "--overwrite"}
	for _, t := range c.added {
		words = append(words, t.String())
	}
	for _, t := range c.removed {
		words = append(words, t.Key+":"+t.Effect+"-")
	}
	return strings.Join(words, " ")
}

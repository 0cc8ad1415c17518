package nodeconfig

import (
	"bytes"
	"fmt"
	"strings"

	"go.yaml.in/yaml/v3"

	"github.com/pikelet-os/pikelet/internal/shared/yamlcheck"
)

// Over returns a node's own config laid over what an image's inventory says
// of it: maps are joined, lists and values replaced. inventory may be nil.
// forgiving goes without fields that nothing here knows, and without those that
// are wrong: what a node has taken was good for the image that took it, and one
// with other rules must not lock its users out.
func Over(inventory *Document, m Machine, file string, delivered []byte, forgiving bool) (*Config, error) {
	var under *yaml.Node
	if inventory != nil {
		if i, err := inventory.Find(m); err == nil {
			if inventory.Inventory == nil {
				under = inventory.top
			} else {
				under = joined(inventory.defaults, strip(inventory.nodes[i]))
			}
		}
	}
	c := &checker{yamlcheck.New(file), false}
	over, ok := c.Decode(bytes.TrimRight(delivered, "\x00"), &Config{})
	if over == nil && !ok || c.Err() != nil && !forgiving { // a key that is there twice is a mistake like others
		return nil, c.Err()
	}
	whole := joined(under, over)
	if whole == nil {
		return &Config{}, nil
	}
	if forgiving {
		return lenient(file, whole)
	}
	cfg := &Config{}
	if err := whole.Decode(cfg); err != nil {
		c.Decoding(err)
		return nil, c.Err()
	}
	c.Index(whole)
	c.check(cfg)
	return cfg, c.Err()
}

// maxPruned is how many fields a config may do without before it is refused.
const maxPruned = 1000

// lenient reads a config without the fields that are wrong: each is taken out,
// or, where one is missing, what wants it. Without a part of what k3s is made of
// k3s is not started: it could begin another life on another volume.
func lenient(file string, whole *yaml.Node) (*Config, error) {
	for range maxPruned {
		c := &checker{yamlcheck.New(file), false}
		cfg := &Config{}
		if err := whole.Decode(cfg); err != nil {
			c.Decoding(err)
			return nil, c.Err()
		}
		c.check(cfg)
		wrong := c.Fields()
		if len(wrong) == 0 {
			return cfg, c.Err()
		}
		field, _, _ := strings.Cut(wrong[0], ".")
		pruned, ok := prune(whole, "", wrong[0])
		if !ok {
			return nil, c.Err()
		}
		switch field {
		case "k3s", "volume", "iscsi":
			if child(pruned, "k3s") != nil {
				pruned, _ = prune(pruned, "", "k3s")
			}
		}
		whole = pruned
	}
	return nil, fmt.Errorf("%s: more than %d fields are wrong", file, maxPruned)
}

// prune returns a copy of n, whose field is at, without a field, or without the
// innermost there is of what the field is in. It reports whether it found any.
func prune(n *yaml.Node, at, field string) (*yaml.Node, bool) {
	n = resolve(n)
	best, bestName, width := -1, "", 1
	consider := func(i int, name string) {
		within := name == field || strings.HasPrefix(field, name+".") || strings.HasPrefix(field, name+"[")
		if within && len(name) > len(bestName) {
			best, bestName = i, name
		}
	}
	switch n.Kind {
	case yaml.MappingNode:
		width = 2
		for i := 0; i+1 < len(n.Content); i += 2 {
			consider(i, strings.TrimPrefix(at+"."+n.Content[i].Value, "."))
		}
	case yaml.SequenceNode:
		for i := range n.Content {
			consider(i, fmt.Sprintf("%s[%d]", at, i))
		}
	}
	if best < 0 {
		return n, false
	}
	out := *n
	out.Content = append([]*yaml.Node(nil), n.Content...)
	value := best + width - 1
	if bestName != field {
		if inner, ok := prune(n.Content[value], bestName, field); ok {
			out.Content[value] = inner
			return &out, true
		}
	}
	out.Content = append(out.Content[:best], out.Content[value+1:]...)
	return &out, true
}

package nodeconfig

import (
	"fmt"
	"strings"

	"go.yaml.in/yaml/v3"
)

// Options are k3s' own options by their names. k3s reads its config file as
// YAML 1.1 and makes text of every value, for a flag; so what is written here
// is kept as k3s is to read it: yes, no, on and off are true and false, and a
// number that would come back in other digits, such as the mode 0640 or the
// version 1.10, is the text it was written as (rancher/rke2#4739).
type Options map[string]any

// UnmarshalYAML reads options.
func (o *Options) UnmarshalYAML(n *yaml.Node) error {
	var m map[string]any
	// The first time for its errors, with the lines of the file; one of them is
	// an anchor that contains itself.
	if err := n.Decode(&m); err != nil {
		return err
	}
	m = nil
	if err := asWritten(n).Decode(&m); err != nil {
		return err
	}
	*o = m
	return nil
}

// yaml11 are the words that are true and false in YAML 1.1 only.
var yaml11 = map[string]string{
	"y": "true", "Y": "true", "yes": "true", "Yes": "true", "YES": "true", "on": "true", "On": "true", "ON": "true",
	"n": "false", "N": "false", "no": "false", "No": "false", "NO": "false", "off": "false", "Off": "false", "OFF": "false",
}

// asWritten returns a copy of a value whose scalars are what YAML 1.1 makes of
// them, or the text they were written as.
func asWritten(n *yaml.Node) *yaml.Node {
	n = resolve(n)
	out := *n
	out.Content = nil
	for _, e := range n.Content {
		out.Content = append(out.Content, asWritten(e))
	}
	const quoted = yaml.TaggedStyle | yaml.SingleQuotedStyle | yaml.DoubleQuotedStyle | yaml.LiteralStyle | yaml.FoldedStyle
	if n.Kind != yaml.ScalarNode || n.Style&quoted != 0 {
		return &out
	}
	if word, is := yaml11[n.Value]; is {
		out.Value, out.Tag = word, "!!bool"
		return &out
	}
	switch n.ShortTag() {
	case "!!int", "!!float", "!!timestamp":
		var v any
		if err := n.Decode(&v); err != nil || fmt.Sprint(v) != strings.TrimSpace(n.Value) {
			out.Tag, out.Style = "!!str", yaml.DoubleQuotedStyle
		}
	}
	return &out
}

package nodeconfig

import (
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	"go.yaml.in/yaml/v3"

	"github.com/pikelet-os/pikelet/internal/shared/yamlcheck"
)

// MaxShutdownGrace is the longest k3s.shutdown-grace. A node that stops for
// longer looks like one that hangs.
const MaxShutdownGrace = 10 * time.Minute

// CheckK3s checks on the desk what a node must not refuse: a config that it has
// may be older than this check, and its k3s newer than the list of options. It
// returns warnings, a line each, for options that a k3s server skips, and an
// error for what stops a k3s agent and for too long a shutdown-grace.
func (f *Document) CheckK3s() (warnings []string, err error) { return f.checkEachK3s(checkRole) }

// CheckK3sRelease checks whether v1.MINOR of k3s, which is the one of an image,
// takes the options of a document: the warnings and the error are like those of
// CheckK3s.
func (f *Document) CheckK3sRelease(minor int) (warnings []string, err error) {
	return f.checkEachK3s(func(bad, odd *yamlcheck.Checker, k K3s) { checkRelease(bad, odd, k, minor) })
}

// checkEachK3s runs a check on what each node of the document is to be.
func (f *Document) checkEachK3s(check func(bad, odd *yamlcheck.Checker, k K3s)) (warnings []string, err error) {
	bad, odd := yamlcheck.New(f.file), yamlcheck.New(f.file)
	one := func(whole *yaml.Node) {
		cfg := &Config{}
		if whole == nil || whole.Decode(cfg) != nil {
			return // Load has said why
		}
		b, o := yamlcheck.New(f.file), yamlcheck.New(f.file)
		b.Index(whole)
		o.Index(whole)
		check(b, o, cfg.K3s)
		bad.Include(b)
		odd.Include(o)
	}
	if f.Inventory == nil {
		one(f.top)
	}
	for _, n := range f.nodes {
		one(joined(f.defaults, strip(n)))
	}
	var skipped *yamlcheck.Error
	if errors.As(odd.Err(), &skipped) {
		warnings = skipped.Problems
	}
	return warnings, bad.Err()
}

// checkRole notes the options of k that its role does not take: in bad what
// stops k3s, in odd what it skips.
func checkRole(bad, odd *yamlcheck.Checker, k K3s) {
	if g := time.Duration(k.ShutdownGrace); g > MaxShutdownGrace {
		bad.Add("k3s.shutdown-grace", "%v: want at most %v", g, MaxShutdownGrace)
	}
	const newer = "an option of another release of k3s goes into a file below /etc/rancher/k3s/config.yaml.d, through files"
	for _, key := range slices.Sorted(maps.Keys(k.Options)) {
		at, name := "k3s.options."+key, strings.TrimSuffix(key, "+")
		o, known := findOption(name)
		switch {
		case shortOptions[name] != "":
			bad.Add(at, "spell it %s", shortOptions[name])
		case k.Role == "agent" && removedOptions[name] != "":
			bad.Add(at, "k3s has had no such option since v1.26, and would not start as an agent; want %s", removedOptions[name])
		case k.Role == "server" && removedOptions[name] != "":
			odd.Add(at, "k3s has had no such option since v1.26; a server skips it; want %s", removedOptions[name])
		case k.Role == "agent" && known && !o.agent:
			bad.Add(at, "only servers take it, and k3s would not start as an agent")
		case k.Role == "agent" && !known:
			bad.Add(at, "k3s has no such option, and would not start as an agent; %s", newer)
		case k.Role == "server" && !known:
			odd.Add(at, "k3s has no such option; a server skips it. If k3s of the image has it: %s", newer)
		case k.Role == "server" && !o.server:
			odd.Add(at, "only agents take it; a server skips it")
		case name == "kubelet-arg":
			unknown := unknownKubeletFlags(k.Options[key])
			for _, i := range slices.Sorted(maps.Keys(unknown)) {
				odd.Add(fmt.Sprintf("%s[%d]", at, i), "no kubelet of v1.26 to v1.34 has the flag %q, and k3s does not start with a flag that "+
					"its kubelet does not have", shorten(unknown[i]))
			}
		}
	}
}

// checkRelease notes the options of k that no release of a minor version has.
func checkRelease(bad, odd *yamlcheck.Checker, k K3s, minor int) {
	for _, key := range slices.Sorted(maps.Keys(k.Options)) {
		at := "k3s.options." + key
		switch o, known := findOption(strings.TrimSuffix(key, "+")); {
		case !known || o.since <= minor:
		case k.Role == "agent" && o.agent:
			bad.Add(at, "k3s v1.%d of the image does not take it, and would not start as an agent; v1.%d is the first that may", minor, o.since)
		case k.Role == "server":
			odd.Add(at, "k3s v1.%d of the image does not take it, and skips it; v1.%d is the first that may", minor, o.since)
		}
	}
}

// joined lays a node's own config over what all nodes have, as merge does, and
// takes away from an agent the options of common that only servers take:
// defaults hold what a cluster has, and k3s does not start as an agent with any
// of them. What own has stays.
func joined(common, own *yaml.Node) *yaml.Node {
	whole := resolve(merge(common, own))
	k3s := resolve(child(whole, "k3s"))
	role := resolve(child(k3s, "role"))
	options := resolve(child(k3s, "options"))
	if role == nil || role.Value != "agent" || options == nil || options.Kind != yaml.MappingNode {
		return whole
	}
	mine := resolve(child(resolve(child(resolve(own), "k3s")), "options"))
	kept := *options
	kept.Content = nil
	for i := 0; i+1 < len(options.Content); i += 2 {
		key := options.Content[i]
		if k := keyOf(mine, key.Value); k != nil {
			key = k // messages name the line of the agent's own
		} else if isServerOnly(key.Value) {
			continue
		}
		kept.Content = append(kept.Content, key, options.Content[i+1])
	}
	return with(whole, "k3s", with(k3s, "options", &kept))
}

// keyOf returns a key of a mapping, or nil.
func keyOf(n *yaml.Node, key string) *yaml.Node {
	if n == nil || n.Kind != yaml.MappingNode {
		return nil
	}
	for i := 0; i+1 < len(n.Content); i += 2 {
		if n.Content[i].Value == key {
			return n.Content[i]
		}
	}
	return nil
}

// with returns a copy of a mapping whose value of key is another.
func with(n *yaml.Node, key string, v *yaml.Node) *yaml.Node {
	out := *n
	out.Content = slices.Clone(n.Content)
	for i := 0; i+1 < len(out.Content); i += 2 {
		if out.Content[i].Value == key {
			out.Content[i+1] = v
		}
	}
	return &out
}

package nodeconfig

import (
	"strings"
	"testing"
)

// TestLenientKeepsTheRest: a config that an earlier image took keeps its
// users and its network under stricter rules; only what is wrong is gone, and
// k3s is not started without a part of what it is made of.
func TestLenientKeepsTheRest(t *testing.T) {
	for text, want := range map[string]string{
		"hostname: attic\nusers: [{name: anna, keys: ['from=\"10.0.0.1\" " + key + "', '" + key +
			"']}]\nk3s: {role: server}\n": "attic 1 users 1 keys server",
		"hostname: attic\nusers: [{name: eve, keys: [x]}, {name: anna, keys: ['" + key +
			"']}]\n": "attic 1 users 1 keys ",
		"hostname: Attic\nusers: [{name: anna, keys: ['" + key + "']}]\n": " " +
			"1 users 1 keys ",
		"users: [{name: anna, keys: ['" + key + "']}]\nk3s: {role: server, labels: {node-role.kubernetes.io/worker: 'true'}}\n": " " +
			"1 users 1 keys ",
		"users: [{name: anna, keys: ['" + key + "']}]\nk3s: {role: server}\nvolume: {on: disk, device: sda}\n": " " +
			"1 users 1 keys ",
		"users: [{name: anna, keys: ['" + key + "']}]\nk3s: {role: agent, token: t}\n": " " +
			"1 users 1 keys ",
		"users: [{name: anna, keys: ['" + key + "']}]\nsysctls: {a: '1', b.c: '1'}\nfuture: {x: y}\n": " " +
			"1 users 1 keys ",
	} {
		if _, err := Over(nil, Machine{}, "n.yaml", []byte(text), false); err == nil {
			t.Errorf("%s has no mistake", text)
		}
		cfg, err := Over(nil, Machine{}, "n.yaml", []byte(text), true)
		if err != nil {
			t.Errorf("%s: %v", text, err)
			continue
		}
		got := cfg.Hostname + " " + strings.Repeat("1", len(cfg.Users)) + " users "
		if len(cfg.Users) > 0 {
			got += strings.Repeat("1", len(cfg.Users[0].Keys)) + " keys "
		}
		if got += cfg.K3s.Role; got != want {
			t.Errorf("%s: %q, want %q", text, got, want)
		}
		b, err := cfg.Encode()
		if err == nil {
			_, err = Parse("n.yaml", b)
		}
		if err != nil {
			t.Errorf("%s: what is left is not good: %v", text, err)
		}
	}
	if _, err := Over(nil, Machine{}, "n.yaml", []byte("users: anna\n"), true); err == nil {
		t.Error("a list that is text is taken")
	}
}

package prepare

import (
	"encoding/json"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"testing/fstest"

	"github.com/pikelet-os/pikelet/internal/device/agent/volume"
	"github.com/pikelet-os/pikelet/internal/device/etc"
	"github.com/pikelet-os/pikelet/internal/shared/node"
	"github.com/pikelet-os/pikelet/internal/shared/nodeconfig"
)

const (
	token    = "K10abcdefsecret"
	manifest = "/var/lib/rancher/k3s/server/manifests/mine.yaml"
)

// bootFilesOf returns what a config makes of a node, by path.
func bootFilesOf(t *testing.T, text string) map[string]etc.File {
	t.Helper()
	cfg, err := nodeconfig.Parse("node.yaml", []byte(text))
	if err != nil {
		t.Fatal(err)
	}
	id, err := node.NewIdentity("attic", strings.Repeat("ab", 32))
	if err != nil {
		t.Fatal(err)
	}
	files, problems, err := bootFiles(etc.Input{Config: cfg, Identity: id, Root: fstest.MapFS{}})
	if err != nil {
		t.Fatal(problems, err)
	}
	all := map[string]etc.File{}
	for _, f := range files {
		all[f.Path] = f
	}
	return all
}

// TestSecretsOfABoot: the config of a boot, which holds all secrets, and the
// files that wait for the volume are root's alone.
func TestSecretsOfABoot(t *testing.T) {
	all := bootFilesOf(t, "k3s: {role: server, token: "+token+"}\nfiles: [{path: "+manifest+", content: "+token+", secret: true}]\n")
	for _, name := range []string{node.EffectiveFile, volume.WaitingFile} {
		f, there := all[name]
		if !there || f.Mode != 0o600 || f.UID != 0 || !strings.Contains(f.Content, token) {
			t.Errorf("%s is %v, of user %d: %s", name, f.Mode, f.UID, f.Content)
		}
	}
	if cfg, err := nodeconfig.Parse("x", []byte(all[node.EffectiveFile].Content)); err != nil || cfg.K3s.Token != token {
		t.Errorf("the config of the boot: %v", err)
	}
	// Each file is written with its mode, over one that everybody reads too.
	name := filepath.Join(t.TempDir(), "node.yaml")
	if err := os.WriteFile(name, nil, 0o644); err != nil {
		t.Fatal(err)
	}
	if err := put(etc.File{Path: name, Content: "x", Mode: 0o600, UID: os.Getuid()}); err != nil {
		t.Fatal(err)
	}
	if st, err := os.Stat(name); err != nil || st.Mode() != 0o600 {
		t.Errorf("%v, %v", st.Mode(), err)
	}
}

// TestFilesOfTheVolumeWait: what the volume would hide is written when it is
// mounted; the rest of /var before anything starts.
func TestFilesOfTheVolumeWait(t *testing.T) {
	list := "files:\n"
	var below, beside []string
	for _, w := range node.WritablePaths() {
		if strings.HasPrefix(w.Path, "/var/") {
			beside = append(beside, w.Path+"-not")
			if w.Place == node.Volume {
				below = append(below, w.Path+"/x")
			} else {
				beside = append(beside, w.Path+"/x")
			}
		}
	}
	for _, name := range append(below, beside...) {
		list += "- {path: " + name + ", content: c}\n"
	}
	all := bootFilesOf(t, list)
	var later []etc.File
	if err := json.Unmarshal([]byte(all[volume.WaitingFile].Content), &later); err != nil {
		t.Fatal(err)
	}
	waits := map[string]bool{}
	for _, f := range later {
		waits[f.Path] = true
	}
	if len(below) < 6 {
		t.Errorf("only %q are below the volume", below)
	}
	for _, name := range below {
		if _, now := all[name]; now || !waits[name] {
			t.Errorf("%s: written at once: %v, waits: %v", name, now, waits[name])
		}
	}
	for _, name := range beside {
		if _, now := all[name]; !now || waits[name] {
			t.Errorf("%s: written at once: %v, waits: %v", name, now, waits[name])
		}
	}
}

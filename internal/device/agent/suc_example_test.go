package agent

import (
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"go.yaml.in/yaml/v3"

	"github.com/pikelet-os/pikelet/internal/shared/image/registry"
	"github.com/pikelet-os/pikelet/internal/shared/node"
	"github.com/pikelet-os/pikelet/internal/shared/slots"
)

// controllerExample is the example for system-upgrade-controller.
const controllerExample = "../../../examples/system-upgrade-controller/"

// TestControllerPlanReads: the Plan has no fields but those of Plans
// (rancher/system-upgrade-controller, pkg/apis/upgrade.cattle.io/v1/types.go), takes
// agents one by one, and names an image as nodes read it.
func TestControllerPlanReads(t *testing.T) {
	var p struct {
		APIVersion string `yaml:"apiVersion"`
		Kind       string
		Metadata   struct{ Name, Namespace string }
		Spec       struct {
			Version      string
			Concurrency  int64
			Exclusive    bool
			NodeSelector struct {
				MatchExpressions []struct{ Key, Operator string } `yaml:"matchExpressions"`
			} `yaml:"nodeSelector"`
			ServiceAccountName    string `yaml:"serviceAccountName"`
			JobActiveDeadlineSecs int64  `yaml:"jobActiveDeadlineSecs"`
			PostCompleteDelay     string `yaml:"postCompleteDelay"`
			Drain                 struct {
				Timeout            string
				Force              bool
				DeleteEmptydirData bool `yaml:"deleteEmptydirData"`
			}
			Upgrade struct {
				Image string
				Args  []string
			}
		}
	}
	f, err := os.Open(controllerExample + "plan.yaml")
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	dec := yaml.NewDecoder(f)
	dec.KnownFields(true)
	if err := dec.Decode(&p); err != nil {
		t.Fatal(err)
	}
	servers := p.Spec.NodeSelector.MatchExpressions[1]
	if p.APIVersion != "upgrade.cattle.io/v1" || p.Kind != "Plan" || p.Spec.Concurrency != 1 ||
		servers.Key != "node-role.kubernetes.io/control-plane" || servers.Operator != "DoesNotExist" {
		t.Errorf("%+v, want a Plan that takes agents one by one", p)
	}
	if len(p.Spec.Upgrade.Args) != 1 {
		t.Fatalf("the arguments are %q, want a repository", p.Spec.Upgrade.Args)
	}
	image := p.Spec.Upgrade.Args[0] + ":" + p.Spec.Version
	if _, tag, err := registry.Repository(image, registry.Options{}); err != nil || tag != p.Spec.Version || registry.IsChannel(tag) {
		t.Errorf("%s names %q (%v), want a release", image, tag, err)
	}
}

// nsenterText plays nsenter and pikeletd: it writes down what it is called with, and
// answers with a status or an exit status.
const nsenterText = `#!/bin/sh
case "$*" in "-t 1 -m -u -- /usr/sbin/pikeletd "*) ;; *) echo "nsenter $*" >&2; exit 99 ;; esac
shift 6
echo "$*" >> "$STAND_IN/calls"
case $1 in
status) cat "$STAND_IN/status" ;;
upgrade) exit "$(cat "$STAND_IN/exit")" ;;
esac
`

// sleepText plays sleep: while it lasts, the next status comes up.
const sleepText = `#!/bin/sh
echo "sleep $*" >> "$STAND_IN/calls"
[ ! -e "$STAND_IN/next" ] || mv "$STAND_IN/next" "$STAND_IN/status"
`

// TestControllerScript: the script ends well only on a node that keeps the release.
// It waits for a trial, asks for an upgrade once, and gives pikeletd only arguments
// that it takes.
func TestControllerScript(t *testing.T) {
	const upgrade = "upgrade registry.example/pi/homelab:1.5"
	for name, c := range map[string]struct {
		status, next node.Boot
		exit         string // of pikeletd upgrade
		ok           bool
		want         []string // calls
	}{
		"it keeps the release": {node.Boot{Release: "1.5", Kind: slots.Committed}, node.Boot{}, "0", true, []string{"status --json"}},
		"it restarts": {node.Boot{Release: "1.4", Kind: slots.Committed}, node.Boot{}, "0", false,
			[]string{"status --json", upgrade, "sleep 600"}},
		"it refuses": {node.Boot{Release: "1.4", Kind: slots.Committed}, node.Boot{}, "1", false, []string{"status --json", upgrade}},
		"the trial is kept": {node.Boot{Release: "1.5", Kind: slots.Trial}, node.Boot{Release: "1.5", Kind: slots.Committed}, "1", true,
			[]string{"status --json", "sleep 10", "status --json"}},
		"the trial is another release's": {node.Boot{Release: "1.6", Kind: slots.Trial},
			node.Boot{Release: "1.6", Kind: slots.Committed}, "1", false, []string{"status --json", "sleep 10", "status --json", upgrade}},
		"a rescue":  {node.Boot{Release: "1.5", Kind: slots.Rescue}, node.Boot{}, "1", false, []string{"status --json", upgrade}},
		"no status": {node.Boot{}, node.Boot{}, "0", false, []string{"status --json"}},
	} {
		dir := t.TempDir()
		put := func(name, text string, mode os.FileMode) {
			if err := os.WriteFile(filepath.Join(dir, name), []byte(text), mode); err != nil {
				t.Fatal(err)
			}
		}
		put("nsenter", nsenterText, 0o755)
		put("sleep", sleepText, 0o755)
		put("exit", c.exit, 0o644)
		for file, boot := range map[string]node.Boot{"status": c.status, "next": c.next} {
			if boot.Kind == "" {
				continue
			}
			left := &slots.Update{Release: "1.3", Step: slots.Left} // of an upgrade before, which comes later in the status
			b, err := node.Status{Boot: boot, Update: left}.Encode()
			if err != nil {
				t.Fatal(err)
			}
			put(file, string(b), 0o644)
		}
		cmd := exec.Command("sh", controllerExample+"image/upgrade.sh", "registry.example/pi/homelab")
		cmd.Env = []string{"PATH=" + dir + ":" + os.Getenv("PATH"), "STAND_IN=" + dir, "SYSTEM_UPGRADE_PLAN_LATEST_VERSION=1.5"}
		out, err := cmd.CombinedOutput()
		if (err == nil) != c.ok {
			t.Errorf("%s: %v\n%s", name, err, out)
		}
		calls, err := os.ReadFile(filepath.Join(dir, "calls"))
		if got := strings.TrimSpace(string(calls)); err != nil || got != strings.Join(c.want, "\n") {
			t.Errorf("%s: the calls are\n%s\nwant\n%s\n%s", name, got, strings.Join(c.want, "\n"), out)
		}
		for call := range strings.Lines(string(calls)) {
			if !strings.HasPrefix(call, "sleep ") {
				takes(t, strings.Fields(call))
			}
		}
	}
}

// takes checks that pikeletd has a verb, its flags and as many arguments.
func takes(t *testing.T, args []string) {
	t.Helper()
	c, rest, err := newRoot().Find(args)
	if err == nil {
		err = c.ParseFlags(rest)
	}
	if err == nil {
		err = c.ValidateArgs(c.Flags().Args())
	}
	if err != nil || c.Name() != args[0] {
		t.Errorf("pikeletd %q: %v", args, err)
	}
}

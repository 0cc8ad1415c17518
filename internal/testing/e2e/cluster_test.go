//go:build cluster

package e2e

import (
	"bytes"
	"context"
	"encoding/json"
	"flag"
	"fmt"
	"log/slog"
	"os"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/pikelet-os/pikelet/builder"
	"github.com/pikelet-os/pikelet/internal/host/provision"
	"github.com/pikelet-os/pikelet/internal/testing/rig"
	"github.com/pikelet-os/pikelet/internal/testing/vm"
)

// cluster is a real Kubernetes in a network of a test's own. Its control plane
// runs on this computer.
type cluster struct {
	t *testing.T
	*rig.ControlPlane
	lan *lan
}

func newCluster(t *testing.T) *cluster {
	t.Helper()
	programs, err := rig.Find("../../..")
	if err != nil {
		t.Fatal(err)
	}
	l := newLAN(t)
	if err := l.ServeTime(); err != nil {
		t.Fatal(err)
	}
	log := slog.New(slog.NewTextHandler(t.Output(), nil))
	ctx, cancel := context.WithTimeout(t.Context(), tooLong)
	defer cancel()
	c, err := rig.Start(ctx, l.LAN, programs, t.TempDir(), log)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(c.Stop)
	return &cluster{t, c, l}
}

// k3sFile is a release of k3s itself, for nodes that need no other control plane.
var k3sFile = flag.String("k3s", "", "a release of k3s, the file k3s-arm64, that nodes run instead of the rig's programs")

// clusterImage builds the image of the cluster tests as a release. change may be
// nil, or change the programs of k3s.
func clusterImage(t *testing.T, version string, change func(bin map[string][]byte)) *builder.Result {
	t.Helper()
	return entry(shared.images, "cluster "+version).get(t, func() (*builder.Result, error) {
		programs, err := rig.Find("../../..")
		if err != nil {
			return nil, err
		}
		var release []byte
		if *k3sFile != "" {
			release, err = os.ReadFile(*k3sFile)
		} else {
			release, err = programs.Release(change)
		}
		if err != nil {
			return nil, err
		}
		images, err := programs.Images()
		if err != nil {
			return nil, err
		}
		dir := newDir(t)
		path, digest := keepFile(t, dir, "k3s-arm64", release)
		imagesPath, imagesDigest := keepFile(t, dir, "images.tar.zst", images)
		words := []string{"VERSION", version, "RELEASE", path, "IMAGESHA", imagesDigest, "SHA256", digest, "IMAGES", imagesPath}
		if change != nil { // nothing to wait for: the release is bad
			words = append(words, "deadline: 300s", "deadline: 120s")
		}
		return buildFilled(t, "cluster.yaml", newDir(t), words)
	})
}

// member is a node of a cluster, at the address 10.77.0.1 with its number.
type member struct {
	*pi
	c      *cluster
	name   string
	number int
}

// address is where a node of a number is.
func address(number int) string { return fmt.Sprintf("10.77.0.%d", number) }

// inventory is that of a member alone, whose config has more than name, time and
// network. Its secret makes a card that is flashed again the same node.
func (c *cluster) inventory(name, serial string, number int, more string) string {
	config := fmt.Sprintf(`hostname: %s
serial: '%s'
time: {wait: 30s, servers: [10.77.0.1]}
network: {interfaces: [{name: eth0, addresses: [%s/24], gateway: 10.77.0.1}], dns: [10.77.0.1]}
%s`, name, serial, address(number), more)
	return "cluster-secret: " + clusterSecret + "\nnodes:\n- " + strings.ReplaceAll(strings.TrimSpace(config), "\n", "\n  ") + "\n"
}

// serial is the serial number of the board of a member with a card.
func serial(number int) string { return fmt.Sprintf("10000000000000%02x", number) }

// configure puts the config of a member onto a card.
func (c *cluster) configure(card, name string, number int, more string) {
	c.t.Helper()
	cfg := configOf(c.t, c.inventory(name, serial(number), number, more), name)
	if err := provision.Write(card, cfg); err != nil {
		c.t.Fatal(err)
	}
}

func (c *cluster) agent() string {
	return fmt.Sprintf("k3s: {role: agent, server: 'https://10.77.0.1:6443', token: '%s', labels: {room: attic}}\n", c.Token)
}

// join boots a card of an image for a member and waits for its prompt.
func (c *cluster) join(r *builder.Result, name string, number int, more string) *member {
	c.t.Helper()
	card := cardOf(c.t, r)
	enlarge(c.t, card, 4000)
	c.configure(card, name, number, more)
	return c.boot(card, name, number)
}

// boot boots a member's card.
func (c *cluster) boot(card, name string, number int) *member {
	c.t.Helper()
	_, tap := c.lan.pi("3", uint32(number))
	p := boot(c.t, card, func(o *vm.Options) {
		o.Tap, o.Namespace, o.Serial = tap, c.lan.Name, serial(number)
		bigger(o)
	})
	p.prompt()
	return &member{p, c, name, number}
}

// bigger gives a machine what a control plane needs.
func bigger(o *vm.Options) { o.Memory, o.Cores = 2048, 2 }

// get reads an object of the API into a value; false means that there is none.
func (c *cluster) get(path string, into any) bool {
	c.t.Helper()
	b, err := c.Get(c.t.Context(), path)
	return err == nil && json.Unmarshal(b, into) == nil
}

// kubectl runs kubectl as the cluster's administrator and returns what it prints.
func (c *cluster) kubectl(in string, args ...string) (string, error) {
	cmd := c.Kubectl(args...)
	cmd.Stdin = strings.NewReader(in)
	var out bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &out
	err := cmd.Run()
	return out.String(), err
}

// must is kubectl that must succeed.
func (c *cluster) must(args ...string) string {
	c.t.Helper()
	out, err := c.kubectl("", args...)
	if err != nil {
		c.t.Fatalf("kubectl %q: %v\n%s", args, err, out)
	}
	return out
}

// apply applies manifests.
func (c *cluster) apply(text string) {
	c.t.Helper()
	if out, err := c.kubectl(text, "apply", "-f", "-"); err != nil {
		c.t.Fatalf("applying: %v\n%s\n%s", err, out, text)
	}
}

// nodeObject is what tests look at of a Node.
type nodeObject struct {
	Metadata struct {
		UID         string
		Labels      map[string]string
		Annotations map[string]string
	}
	Spec struct {
		Unschedulable bool
		Taints        []struct{ Key, Value, Effect string }
	}
	Status struct {
		NodeInfo   struct{ BootID, OSImage, KubeletVersion string }
		Conditions []struct{ Type, Status, Reason, Message string }
	}
}

func (n nodeObject) ready() bool {
	for _, c := range n.Status.Conditions {
		if c.Type == "Ready" {
			return c.Status == "True"
		}
	}
	return false
}

// node returns what the API has of a node.
func (c *cluster) node(name string) (n nodeObject) {
	c.t.Helper()
	c.get("/api/v1/nodes/"+name, &n)
	return n
}

// eventually waits until done reports true, while the machine runs. It asks twice
// a second.
func (m *member) eventually(what string, done func() bool) {
	m.t.Helper()
	var last time.Time
	m.await(what, func() bool {
		if time.Since(last) < 500*time.Millisecond {
			return false
		}
		last = time.Now()
		return done()
	})
}

// ready waits until the API has the member as Ready, in whichever boot.
func (m *member) ready() nodeObject {
	m.t.Helper()
	var n nodeObject
	m.eventually(m.name+" is Ready", func() bool {
		n = m.c.node(m.name)
		return n.ready()
	})
	return n
}

// podObject is what tests look at of a Pod.
type podObject struct {
	Metadata struct{ Name string }
	Spec     struct{ NodeName string }
	Status   struct {
		Phase, PodIP      string
		Conditions        []struct{ Type, Status string }
		ContainerStatuses []struct {
			RestartCount int
			State        struct {
				Waiting    struct{ Reason string }
				Terminated struct {
					Reason   string
					ExitCode int
				}
			}
		}
	}
}

func (p podObject) ready() bool {
	return slices.Contains(p.Status.Conditions, struct{ Type, Status string }{"Ready", "True"})
}

// pods returns the pods of the namespace default with a label.
func (c *cluster) pods(label string) []podObject {
	c.t.Helper()
	var list struct{ Items []podObject }
	c.get("/api/v1/namespaces/default/pods?labelSelector="+strings.ReplaceAll(label, "=", "%3D"), &list)
	return list.Items
}

// running waits until so many pods with a label are ready, and returns them.
func (m *member) running(label string, n int) []podObject {
	m.t.Helper()
	var pods []podObject
	m.eventually(fmt.Sprintf("%d pods of %s are ready", n, label), func() bool {
		pods = slices.DeleteFunc(m.c.pods(label), func(p podObject) bool { return !p.ready() })
		return len(pods) == n
	})
	return pods
}

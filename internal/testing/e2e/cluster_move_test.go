//go:build cluster

package e2e

import (
	"context"
	"crypto/tls"
	"fmt"
	"io"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/pikelet-os/pikelet/internal/host/provision"
)

// serverDir is where a server keeps what makes it that server.
const serverDir = "/var/lib/rancher/k3s/server"

// isReady is a command that waits until the API has a node as Ready.
const isReady = `until kubectl get node %s -o jsonpath='{.status.conditions[?(@.type=="Ready")].status}' | grep True; do sleep 5; done`

// stopsOwn has a new node not begin a cluster of its own, which costs minutes.
const stopsOwn = "rc-service pikelet-k3s stop"

// TestClusterMove moves a server from a node to another. The power of one of the
// three, the old node, the new one and the computer that gives the command, is cut at
// six moments; each time the same command goes on. At no moment two servers of the
// cluster answer, and in the end the agent, which knew the old address, has followed.
func TestClusterMove(t *testing.T) {
	m := newMoving(t)
	m.cutOldNode()
	m.cutNewNode()
	m.agentFollows()
}

// moving is a cluster whose server moves from cellar to loft.
type moving struct {
	t                   *testing.T
	c                   *cluster
	cellar, attic, loft *member
	d                   *admin
	command             []string
	agent               func(at string) string // its config, by where it looks for the server
	watch               func() int
}

func newMoving(t *testing.T) *moving {
	t.Helper()
	c := &cluster{t: t, lan: newLAN(t)}
	if err := c.lan.ServeTime(); err != nil {
		t.Fatal(err)
	}
	r := clusterImage(t, "1.0", nil)
	key, public := sshKey(t)
	users := "users: [{name: anna, admin: true, keys: ['" + public + "']}]\n"
	const options = "options: {pause-image: 'registry.test/pause:1'"
	server := users + "k3s: {role: server, token: a-token, " + options +
		", flannel-backend: host-gw, disable: [coredns, local-storage, metrics-server, servicelb, traefik]}}\n"
	agent := func(at string) string {
		return users + "k3s: {role: agent, server: 'https://" + at + ":6443', token: a-token, " + options + "}}\n"
	}
	cellar := c.join(r, "cellar", 12, server)
	attic := c.join(r, "attic", 11, agent(address(12)))
	loft := c.join(r, "loft", 13, server)
	loft.works(stopsOwn)
	cellar.works(fmt.Sprintf(isReady, "attic"))
	cellar.works("kubectl create configmap kept --from-literal=where=attic")

	d := newAdmin(c, "cellar", 12, server, key)
	d.knows("attic", 11, agent(address(12)), key)
	d.knows("loft", 13, server, key)
	watch := c.watchServers(address(12), address(13))
	command := []string{"move", "server", "cellar", "loft", "--replace", "--follow", "1s", "-o", d.file}
	return &moving{t, c, cellar, attic, loft, d, command, agent, watch}
}

// cutOldNode cuts the power of the old node twice, and once that of the desk.
func (m *moving) cutOldNode() {
	m.t.Helper()
	t, d, cellar := m.t, m.d, m.cellar
	t.Log("cut 1: the old node, as soon as it is marked")
	desk := d.start(m.command...)
	cellar.works("until [ -e " + serverDir + "/pikelet/moved.json ]; do :; done; sync") // without, it may be lost, and is done again
	cellar.Close()
	desk.kill()
	cellar = m.c.boot(cellar.card, "cellar", 12)
	cellar.works("until pikeletd status | grep 'this server moved to loft'; do sleep 2; done")

	t.Log("cut 2: the old node and the desk, in the middle of the last backup")
	desk = d.start(m.command...)
	cellar.eventually("the last backup begins", func() bool { return exists(d.file+".part") || exists(d.file) })
	cellar.Close()
	desk.kill()
	cellar = m.c.boot(cellar.card, "cellar", 12)

	t.Log("cut 3: the desk, when it has the last backup")
	desk = d.start(m.command...)
	cellar.eventually("the last backup is there", func() bool { return exists(d.file) })
	desk.kill()
	m.cellar = cellar
}

// cutNewNode cuts the power of the new node three times, the last time while the desk
// waits for it.
func (m *moving) cutNewNode() {
	m.t.Helper()
	t, d, loft := m.t, m.d, m.loft
	t.Log("cut 4: the new node, while it takes the server")
	desk := d.start(m.command...)
	loft.works("until [ -e " + serverDir + ".restored.part ] || [ -e " + serverDir + ".restored ]; do :; done")
	loft.Close()
	desk.kill()
	loft = m.c.boot(loft.card, "loft", 13)
	loft.works(stopsOwn)

	t.Log("cut 5: the new node, when it has the server and has not restarted")
	desk = d.start(m.command...)
	loft.works("until [ -e " + serverDir + ".restored ]; do :; done; sync")
	loft.Close()
	desk.kill()
	loft = m.c.boot(loft.card, "loft", 13)

	t.Log("cut 6: the new node, as soon as it starts the server; the desk waits for it")
	desk = d.start(m.command...)
	loft.works("until [ -e " + serverDir + "/db/state.db-wal ] && ! [ -e " + serverDir + ".restored ]; do sleep 1; done; sync")
	loft.Close()
	loft = m.c.boot(loft.card, "loft", 13)
	loft.eventually("the command ends", desk.ended)
	if out := desk.output(); !containsAll(out, "the server runs", "have not followed: attic", "--send") {
		t.Fatalf("the command says\n%s", out)
	}
	loft.works("kubectl get configmap kept -o jsonpath='{.data.where}' | grep attic")
	m.loft = loft
}

// agentFollows has the agent be told of the new address, and the old node discard
// what it has.
func (m *moving) agentFollows() {
	m.t.Helper()
	t, c, d, cellar, attic, loft := m.t, m.c, m.d, m.cellar, m.attic, m.loft
	nodes := filepath.Join(t.TempDir(), "nodes.yaml")
	writeFile(t, nodes, c.inventory("attic", serial(11), 11, m.agent(address(13))), 0o600)
	d.must(append(m.command, "--inventory", nodes, "--send", "--discard")...)
	loft.works(fmt.Sprintf(isReady, "attic"))
	attic.eventually("all checks of the agent hold", func() bool { return attic.succeeds("pikeletd check") })
	cellar.works("[ \"$(cd " + serverDir + " && find . -type f)\" = ./pikelet/moved.json ]")
	if n := m.watch(); n < 50 {
		t.Errorf("the servers were looked at %d times: too few to tell", n)
	}
	// Back there is no way by itself: the old one is told of, and does not start.
	if out, err := d.pikelet("move", "server", "cellar", "loft", "--undo"); err == nil {
		t.Errorf("a move that came to its end is taken back:\n%s", out)
	}
}

func exists(name string) bool {
	_, err := os.Stat(name)
	return err == nil
}

// watchServers looks at two addresses twice a second, and fails the test where both
// answer as one cluster at the same time. stop returns how often it has looked.
func (c *cluster) watchServers(one, two string) (stop func() int) {
	client := &http.Client{Timeout: 2 * time.Second, Transport: &http.Transport{
		DialContext: c.lan.DialContext, DisableKeepAlives: true, TLSClientConfig: &tls.Config{InsecureSkipVerify: true},
	}}
	ask := func(host string) string {
		resp, err := client.Get("https://" + host + ":6443/cacerts")
		if err != nil {
			return ""
		}
		defer resp.Body.Close()
		b, _ := io.ReadAll(resp.Body)
		return string(b)
	}
	ctx, cancel := context.WithCancel(c.t.Context())
	var looked atomic.Int64
	var all sync.WaitGroup
	all.Go(func() {
		for ctx.Err() == nil {
			var a, b string
			var both sync.WaitGroup
			both.Go(func() { a = ask(one) })
			both.Go(func() { b = ask(two) })
			both.Wait()
			if a != "" && a == b {
				c.t.Error("two servers of the cluster answer at once")
				return
			}
			looked.Add(1)
			time.Sleep(500 * time.Millisecond)
		}
	})
	return func() int {
		cancel()
		all.Wait()
		return int(looked.Load())
	}
}

// knows tells an administrator of one more member.
func (d *admin) knows(name string, number int, more, key string) {
	d.c.t.Helper()
	id, _, err := provision.Identity(configOf(d.c.t, d.c.inventory(name, serial(number), number, more), name), "")
	if err != nil {
		d.c.t.Fatal(err)
	}
	hosts := filepath.Join(filepath.Dir(d.config), "known_hosts")
	for file, text := range map[string]string{
		hosts: address(number) + " " + id.PublicKey() + "\n",
		d.config: fmt.Sprintf("Host %s\nHostName %s\nUser anna\nIdentityFile %s\nIdentitiesOnly yes\nUserKnownHostsFile %s\n"+
			"GlobalKnownHostsFile /dev/null\nBatchMode yes\nStrictHostKeyChecking yes\nConnectionAttempts 60\n", name, address(number), key, hosts),
	} {
		before, err := os.ReadFile(file)
		if err != nil {
			d.c.t.Fatal(err)
		}
		writeFile(d.c.t, file, string(before)+text, 0o600)
	}
}

// running is a command of an administrator that runs.
type running struct {
	t    *testing.T
	cmd  *exec.Cmd
	file string // of its output
	done chan struct{}
}

// start starts the command under test in the network.
func (d *admin) start(args ...string) *running {
	d.c.t.Helper()
	program, err := filepath.Abs("../../../build/pikelet")
	if err != nil {
		d.c.t.Fatal(err)
	}
	file := filepath.Join(d.c.t.TempDir(), "output")
	f, err := os.Create(file)
	if err != nil {
		d.c.t.Fatal(err)
	}
	defer f.Close()
	args = append([]string{program}, append(args, "--identity", d.keys, "--ssh-config", d.config)...)
	cmd := d.c.lan.Command(d.c.lan.Name, args...)
	cmd.Stdout, cmd.Stderr = f, f
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	if err := cmd.Start(); err != nil {
		d.c.t.Fatal(err)
	}
	r := &running{d.c.t, cmd, file, make(chan struct{})}
	go func() {
		cmd.Wait()
		close(r.done)
	}()
	d.c.t.Cleanup(r.kill)
	return r
}

func (r *running) ended() bool {
	select {
	case <-r.done:
		return true
	default:
		return false
	}
}

func (r *running) output() string {
	b, _ := os.ReadFile(r.file)
	return string(b)
}

// kill ends the command and its ssh at once, as a power cut does.
func (r *running) kill() {
	if r.ended() {
		return
	}
	syscall.Kill(-r.cmd.Process.Pid, syscall.SIGKILL)
	<-r.done
	r.t.Logf("the command was cut off after it said:\n%s", strings.TrimSpace(r.output()))
}

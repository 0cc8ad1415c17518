package cli

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"filippo.io/age"

	"github.com/pikelet-os/pikelet/internal/shared/backup"
)

// simulated is a simulated cluster: two nodes that could be its server, and agents.
// It lies in a file, and each call of ssh changes it.
type simulated struct {
	Nodes  map[string]*simNode
	Calls  int // of ssh so far
	CutAt  int // the call that is cut off; 0 for none
	Cut    cutting
	Twice  bool   // whether two servers of the cluster ran at once
	Agents string // where agents look for the server: a node's name
	Log    []string
}

// cutting is how a call is cut off.
type cutting string

const (
	before  cutting = "before"  // nothing of it happens
	middle  cutting = "middle"  // half of what is sent arrives
	after   cutting = "after"   // all of it happens, and no answer comes
	restart cutting = "restart" // as after, and the power of the node goes
)

// simNode is a node: backup.Status is what it says of itself.
type simNode struct {
	backup.Status
	Running string // the cluster whose server runs; "" for none
	Aside   []string
	Off     bool
}

const (
	ours  = "sha256:0123"
	fresh = "sha256:4567"
)

// start is what a node does when it starts.
func (n *simNode) start() {
	if n.Next != nil {
		if n.Cluster != "" {
			n.Aside = append(n.Aside, n.Cluster)
		}
		n.Cluster, n.Restored, n.Next, n.Moved = n.Next.Cluster, n.Next, nil, nil
	}
	n.Running = ""
	if n.Role == "server" && n.Moved == nil {
		n.Running = n.Cluster
	}
}

func newSimulated() *simulated {
	node := func(name, role, cluster string) *simNode {
		return &simNode{Running: cluster, Status: backup.Status{Node: name, Role: role, HostKey: "key of " + name, K3s: "v1.34.4+k3s1",
			Cluster: cluster, Answers: name + ":6443", Size: 1e6, Free: 1e9}}
	}
	return &simulated{Agents: "attic", Nodes: map[string]*simNode{
		"attic": node("attic", "server", ours), "loft": node("loft", "server", fresh),
	}}
}

// init has the test binary stand in for ssh.
func init() {
	if dir := os.Getenv("BE_SSH_IN"); dir != "" {
		os.Exit(beSSH(dir))
	}
}

// beSSH is ssh HOST doas /usr/sbin/pikeletd VERB... to a simulated node.
func beSSH(dir string) int {
	s := readSimulated(dir)
	args := os.Args[1:]
	for len(args) > 1 && args[0] == "-o" {
		args = args[2:]
	}
	s.Calls++
	n := s.Nodes[args[0]]
	is := func(c cutting) bool { return s.Calls == s.CutAt && s.Cut == c }
	status := 255
	var out []byte
	if n != nil && !n.Off && !is(before) {
		verb := strings.TrimPrefix(strings.Join(args[3:], " "), "backup ")
		s.Log = append(s.Log, args[0]+": "+verb)
		in := io.Reader(os.Stdin)
		if is(middle) {
			b, _ := io.ReadAll(in)
			in = bytes.NewReader(b[:len(b)/2])
		}
		var err error
		status = 0
		if out, err = s.do(dir, n, strings.Fields(verb), in); err != nil {
			fmt.Fprintln(os.Stderr, "pikelet-backup:", err)
			status = 1
		}
		switch {
		case is(middle):
			out, status = out[:len(out)/2], 255
		case is(after), is(restart):
			out, status = nil, 255
		}
		if is(restart) {
			n.start()
		}
	}
	running := 0
	for _, n := range s.Nodes {
		if n.Running == ours {
			running++
		}
	}
	s.Twice = s.Twice || running > 1
	if err := s.save(dir); err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	os.Stdout.Write(out)
	return status
}

// do is a verb of a simulated node.
func (s *simulated) do(dir string, n *simNode, verb []string, in io.Reader) ([]byte, error) {
	flag := func(name string) string {
		if i := slices.Index(verb, name); i >= 0 {
			return verb[i+1]
		}
		return ""
	}
	switch verb[0] {
	case "status":
		n.Now = time.Now()
		n.Serving = n.Running != "" && n.Running == n.Cluster
		n.Heard = nil
		if n.Serving {
			n.Heard = map[string]time.Time{n.Node: n.Now, "cellar": {}}
			if s.Agents == n.Node {
				n.Heard["cellar"] = n.Now
			}
		}
		return n.Encode()
	case "fence":
		if n.Moved == nil {
			n.Moved = &backup.Moved{ID: flag("--id"), To: flag("--to"), At: time.Now()}
		}
		n.Running = ""
		return nil, nil
	case "unfence":
		n.Moved = nil
		n.start()
		return nil, nil
	case "write":
		return s.write(n, flag("--recipient"))
	case "restore":
		info, err := backup.Extract(in, func(backup.Info) error { return nil }, func(_ string, _ int64, r io.Reader) error {
			_, err := io.Copy(io.Discard, r)
			return err
		})
		if err != nil {
			return nil, err
		}
		if n.Cluster != "" && n.Moved == nil && !slices.Contains(verb, "--replace") {
			return nil, errors.New("this node has a k3s server already")
		}
		n.Next = &info
		if s.Calls != s.CutAt || s.Cut != middle {
			n.start()
		}
		return nil, nil
	case "drop":
		n.Next = nil
		return nil, nil
	case "discard":
		n.Cluster = ""
		return nil, nil
	case "probe":
		host, _, _ := strings.Cut(verb[1], ":")
		if o := s.Nodes[host]; o != nil && o.Running == verb[2] {
			return []byte("yes\n"), nil
		}
		return []byte("no: connection refused\n"), nil
	case "config":
		b, err := io.ReadAll(in)
		return nil, errors.Join(err, os.WriteFile(filepath.Join(dir, "sent"), b, 0o600))
	case "reboot":
		if b, err := os.ReadFile(filepath.Join(dir, "sent")); err == nil && strings.Contains(string(b), "https://loft:6443") {
			s.Agents = "loft"
		}
		n.start()
		return nil, nil
	}
	return nil, fmt.Errorf("no verb %q", verb)
}

func (s *simulated) write(n *simNode, recipient string) ([]byte, error) {
	if n.Moved == nil || n.Running != "" {
		return nil, errors.New("this server is not fenced")
	}
	key, err := age.ParseX25519Recipient(recipient)
	if err != nil {
		return nil, err
	}
	var out bytes.Buffer
	w, err := backup.NewWriter(&out, backup.Info{Node: n.Node, Cluster: n.Cluster, Made: time.Now().Add(-time.Minute), K3s: n.K3s,
		Datastore: backup.SQLite, Move: n.Moved.ID, To: n.Moved.To}, key)
	if err != nil {
		return nil, err
	}
	for _, name := range []string{backup.Seed, backup.StateDB} {
		if err := w.Add(name, 4, strings.NewReader("text")); err != nil {
			return nil, err
		}
	}
	err = w.Close()
	return out.Bytes(), err
}

func readSimulated(dir string) *simulated {
	s := &simulated{}
	b, err := os.ReadFile(filepath.Join(dir, "simulated.json"))
	if err == nil {
		err = json.Unmarshal(b, s)
	}
	if err != nil {
		panic(err)
	}
	return s
}

func (s *simulated) save(dir string) error {
	b, err := json.Marshal(s)
	if err != nil {
		return err
	}
	return os.WriteFile(filepath.Join(dir, "simulated.json"), b, 0o600)
}

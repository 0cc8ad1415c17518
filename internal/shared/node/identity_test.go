package node

import (
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
)

const seed = "000102030405060708090a0b0c0d0e0f101112131415161718191a1b1c1d1e1f"

// TestIdentityGolden: identities must never change, or every node of every
// cluster is a stranger to it after an upgrade.
func TestIdentityGolden(t *testing.T) {
	id, err := NewIdentity("attic", seed)
	if err != nil {
		t.Fatal(err)
	}
	for what, pair := range map[string][2]string{
		"machine id":    {id.MachineID, "43458c24d310b62bcb7290efaf73ac3b"},
		"host key":      {id.PublicKey(), "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIDRK2E8W7v0mdlfO4kv0vjppzx3dk6U9sm1rDbbyo7Cp"},
		"IQN":           {id.IQN, "iqn.2026-11.io.github.pikelet-os:attic-220e52b1"},
		"node password": {id.NodePassword, "f432782d4c173a97614d9df25681196a"},
	} {
		if pair[0] != pair[1] {
			t.Errorf("%s: %s, want %s", what, pair[0], pair[1])
		}
	}
	if _, err := NewIdentity("attic", "abc"); err == nil {
		t.Error("a short seed passes")
	}
}

// TestHostKeyIsRead: OpenSSH reads the private key and finds the public half
// and the fingerprint that we say.
func TestHostKeyIsRead(t *testing.T) {
	if testing.Short() {
		t.Skip("it needs ssh-keygen")
	}
	id, err := NewIdentity("attic", seed)
	if err != nil {
		t.Fatal(err)
	}
	name := filepath.Join(t.TempDir(), "key")
	if err := os.WriteFile(name, id.OpenSSHKey(), 0o600); err != nil {
		t.Fatal(err)
	}
	public, err := exec.Command("ssh-keygen", "-y", "-f", name).CombinedOutput()
	if err != nil || strings.TrimSpace(string(public)) != id.PublicKey()+" attic" {
		t.Errorf("ssh-keygen -y: %s (%v), want %s", public, err, id.PublicKey())
	}
	print, err := exec.Command("ssh-keygen", "-l", "-f", name).CombinedOutput()
	if err != nil || !strings.Contains(string(print), id.Fingerprint()) {
		t.Errorf("ssh-keygen -l: %s (%v), want %s", print, err, id.Fingerprint())
	}
}

func TestNames(t *testing.T) {
	for serial, want := range map[string]string{"10000000ABCDEF01": "lab-abcdef01", "": "lab", "123": "lab-123"} {
		if got := DefaultName("lab", serial); got != want {
			t.Errorf("serial %q: %q, want %q", serial, got, want)
		}
	}
	for name, want := range map[string]string{
		"attic":                   "attic",
		"sixteen-is-fine-":        "sixteen-is-fine-",
		"a-name-that-is-too-long": "a-name-th~c8400d",
	} {
		if got := VolumeLabel(name); got != want || len(got) > 16 {
			t.Errorf("%s: %q, want %q", name, got, want)
		}
	}
	if VolumeLabel("a-name-that-is-too-long") == VolumeLabel("a-name-that-is-too-large") {
		t.Error("two names, one label")
	}
}

// TestStatusRoundTrip: what a node says of itself, the desk reads.
func TestStatusRoundTrip(t *testing.T) {
	s := Status{
		Boot: Boot{Stream: "lab"}, Node: Prepared{Hostname: "attic", Problems: []string{"x"}}, Volume: VolumeStatus{On: "iscsi", Waiting: "y"},
		Checks: []Check{{Name: "time", Says: "z"}}, CardWritten: 7}
	b, err := s.Encode()
	if err != nil {
		t.Fatal(err)
	}
	again, err := DecodeStatus(b)
	if err != nil {
		t.Fatal(err)
	}
	if more, err := again.Encode(); err != nil || string(more) != string(b) {
		t.Errorf("%s\nbecame (%v)\n%s", b, err, more)
	}
}

func FuzzStatus(f *testing.F) {
	f.Add([]byte(`{"boot":{},"node":{"problems":["a"]},"checks":[{"name":"x"}]}`))
	f.Fuzz(func(t *testing.T, b []byte) {
		DecodeStatus(b)
		DecodePrepared(b)
		DecodeVolume(b)
	})
}

// TestBoardTakesNodeOver: it is the same node to people and to a NAS, and proves itself
// to the cluster by what the board before does not know.
func TestBoardTakesNodeOver(t *testing.T) {
	first, err := NewIdentity("attic", seed)
	if err != nil {
		t.Fatal(err)
	}
	if same, err := first.WithBoard(""); err != nil || same.NodePassword != first.NodePassword {
		t.Errorf("the first board: %v", err)
	}
	second, err := first.WithBoard(strings.Repeat("ab", 32))
	if err != nil || second.NodePassword == first.NodePassword || len(second.NodePassword) != 32 {
		t.Errorf("got password %q, %v", second.NodePassword, err)
	}
	if second.PublicKey() != first.PublicKey() || second.IQN != first.IQN || second.MachineID != first.MachineID {
		t.Error("the second board is another node")
	}
	if _, err := first.WithBoard("abc"); err == nil {
		t.Error("a short seed passes")
	}
}

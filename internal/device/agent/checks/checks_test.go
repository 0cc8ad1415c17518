package checks

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/pikelet-os/pikelet/internal/shared/node"
)

// TestOwnChecks: every program of the directory is run, whatever another says; the
// exit status counts, and the last line is what is told.
func TestOwnChecks(t *testing.T) {
	dir := t.TempDir()
	for name, text := range map[string]string{
		"10-good":    "#!/bin/sh\necho thinking\necho all is well\n",
		"20-bad":     "#!/bin/sh\necho the fan stands still >&2\nexit 3\n",
		"30-outside": "#!/bin/sh\necho the backup server is away\nexit 75\n",
		"40-silent":  "#!/bin/sh\nexit 1\n",
		"50-slow":    "#!/bin/sh\nsleep 60\n",
		"60-broken":  "no program\n",
		"70-late":    "#!/bin/sh\necho fine\n",
	} {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	want := []struct {
		name        string
		ok, outside bool
		says        string
	}{
		{"10-good", true, false, "all is well"},
		{"20-bad", false, false, "the fan stands still"},
		{"30-outside", false, true, "the backup server is away"},
		{"40-silent", false, false, "exit status 1"},
		{"50-slow", false, false, "did not end within 500ms"},
		{"60-broken", false, false, "exec format error"},
		{"70-late", true, false, "fine"},
	}
	got := ownChecks(t.Context(), dir, 500*time.Millisecond)
	if len(got) != len(want) {
		t.Fatalf("%d checks ran: %+v", len(got), got)
	}
	for i, w := range want {
		if g := got[i]; g.Name != w.name || g.OK != w.ok || g.Outside != w.outside || !strings.Contains(g.Says, w.says) {
			t.Errorf("%+v, want %+v", g, w)
		}
	}
	if got := ownChecks(t.Context(), dir+"/none", time.Second); got != nil {
		t.Errorf("without a directory: %+v", got)
	}
}

// TestGateway reads the kernel's tables.
func TestGateway(t *testing.T) {
	const route = "Iface\tDestination\tGateway \tFlags\tRefCnt\tUse\tMetric\tMask\t\tMTU\tWindow\tIRTT\n" +
		"eth0\t0002000A\t00000000\t0001\t0\t0\t0\t00FFFFFF\t0\t0\t0\neth0\t00000000\t0202000A\t0003\t0\t0\t0\t00000000\t0\t0\t0\n"
	if got := gatewayOf(route); got.String() != "10.0.2.2" {
		t.Errorf("the gateway is %s", got)
	}
	if got := gatewayOf("Iface\tDestination\n"); got != nil {
		t.Errorf("no gateway is %s", got)
	}
	const arp = "IP address       HW type     Flags       HW address            Mask     Device\n" +
		"10.0.2.2         0x1         0x2         52:55:0a:00:02:02     *        eth0\n10.0.2.9         0x1         0x0     " +
		"    00:00:00:00:00:00     *        eth0\n"
	if !inARP(arp, "10.0.2.2") || inARP(arp, "10.0.2.9") || inARP(arp, "10.0.2") {
		t.Error("who answers ARP is read wrongly")
	}
}

// TestPartialConfigEndsTrials: an image that goes without a part of the config
// is not kept; one that runs already may be left for another.
func TestPartialConfigEndsTrials(t *testing.T) {
	partial := node.ConfigStatus{Source: node.FromState, Refused: "users[0].keys[1]: x", Partial: true}
	if c := configCheck(partial, true); c.OK || !strings.Contains(c.Says, "users[0].keys[1]: x") {
		t.Errorf("on a trial: %v", c)
	}
	if c := configCheck(partial, false); !c.OK {
		t.Errorf("later: %v", c)
	}
	if c := configCheck(node.ConfigStatus{Source: node.FromState}, true); !c.OK {
		t.Errorf("a whole config: %v", c)
	}
}

package nodeconfig

import (
	"strings"
	"testing"
)

// TestNodeIDIsRefused: with-node-id would give the node another name on each
// boot.
func TestNodeIDIsRefused(t *testing.T) {
	_, err := Parse("node.yaml", []byte("hostname: attic\nk3s: {role: server, options: {with-node-id: true}}\n"))
	if err == nil || !strings.Contains(err.Error(), "with-node-id") {
		t.Errorf("got %v, want an error that names with-node-id", err)
	}
}

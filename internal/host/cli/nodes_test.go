package cli

import (
	"encoding/json"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"

	"github.com/pikelet-os/pikelet/internal/host/bootserver"
)

// TestNodesShowsNoEscapes: whatever a boot server says, a list of machines or
// an error, reaches the terminal without a control character.
func TestNodesShowsNoEscapes(t *testing.T) {
	const bad = "\x1b[2J\x1b]0;title\a\rover\u0085\u202e"
	list, err := json.Marshal([]bootserver.Node{{
		Machine: bootserver.Machine{Serial: bad, MAC: bad, Model: bad}, IP: bad, Stage: bad, Release: bad, Error: bad,
	}})
	if err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct {
		status int
		body   string
		code   int
	}{{http.StatusOK, string(list), 0}, {http.StatusForbidden, bad, 1}} {
		s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
			w.WriteHeader(c.status)
			w.Write([]byte(c.body))
		}))
		out, code := pikelet(t, t.TempDir(), nil, "nodes", "--server", s.URL)
		s.Close()
		if code != c.code || !strings.Contains(out, "over") || strings.ContainsAny(out, "\x1b\a\r\u0085\u202e") {
			t.Errorf("status %d: exit code %d and\n%q", c.status, code, out)
		}
	}
}

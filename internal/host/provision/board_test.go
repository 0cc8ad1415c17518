package provision

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// TestSetBoard: serial, mac and generation change, and not a character beside them.
func TestSetBoard(t *testing.T) {
	const tail = "  # the one by the window\n  time: {wait: 30s}\n# end\n"
	for name, c := range map[string]struct {
		before, after string
		board         Board
	}{
		"a first replacement": {
			"# mine\nnodes:\n- hostname: attic # name\n  serial: 12345678 # by the label\n" + tail,
			"# mine\nnodes:\n- generation: 1\n  hostname: attic # name\n  serial: '9abcdef0' # by the label\n" + tail, Board{Serial: "9abcdef0"}},
		"another one": {
			"nodes:\n- serial: \"1000000012345678\"\n  generation: 3\n  hostname: attic\n" + tail,
			"nodes:\n- serial: '9abcdef0'\n  generation: 4\n  hostname: attic\n" + tail, Board{Serial: "9abcdef0"}},
		"with an address": {
			"nodes:\n  - mac: dc:a6:32:01:02:03\n    hostname: attic\n    serial: '12345678'\n",
			"nodes:\n  - mac: dc:a6:32:0a:0b:0c\n    generation: 1\n    hostname: attic\n    serial: '9abcdef0'\n",
			Board{"9abcdef0", "dc:a6:32:0a:0b:0c"}},
		"by an address alone": {
			"nodes:\n- hostname: attic\n  mac: dc:a6:32:01:02:03\n",
			"nodes:\n- serial: '9abcdef0'\n  generation: 1\n  hostname: attic\n  mac: dc:a6:32:0a:0b:0c\n", Board{"9abcdef0", "dc:a6:32:0a:0b:0c"}},
		"by its name alone": {
			"nodes:\n- hostname: attic\n- hostname: cellar\n",
			"nodes:\n- serial: '9abcdef0'\n  generation: 1\n  hostname: attic\n- hostname: cellar\n", Board{Serial: "9abcdef0"}},
		"on one line": {
			"{x-note: Zürich, nodes: [{hostname: cellar}, {hostname: attic, serial: '12345678', logs: state}]} # é\n",
			"{x-note: Zürich, nodes: [{hostname: cellar}, {generation: 1, hostname: attic, serial: '9abcdef0', logs: state}]} # é\n",
			Board{Serial: "9abcdef0"}},
		"on one line, with a generation": {
			"nodes:\n- {serial: 12345678, hostname: attic, generation: 9}\n",
			"nodes:\n- {serial: '9abcdef0', hostname: attic, generation: 10}\n", Board{Serial: "9abcdef0"}},
		"with line ends of Windows": {
			"nodes:\r\n- hostname: attic\r\n  serial: 12345678\r\n",
			"nodes:\r\n- generation: 1\r\n  hostname: attic\r\n  serial: '9abcdef0'\r\n", Board{Serial: "9abcdef0"}},
	} {
		got, changed, err := SetBoard("nodes.yaml", []byte(c.before), "attic", c.board)
		if err != nil || !changed || string(got) != c.after {
			t.Errorf("%s: %v, %v, got\n%s\nwant\n%s", name, changed, err, got, c.after)
			continue
		}
		// Once more it is done already.
		if again, changed, err := SetBoard("nodes.yaml", got, "attic", Board{Serial: "10000000" + c.board.Serial}); err != nil || changed ||
			string(again) != c.after {
			t.Errorf("%s, once more: %v, %v", name, changed, err)
		}
	}
}

// TestSetBoardRefuses: what is refused leaves the file as it is.
func TestSetBoardRefuses(t *testing.T) {
	for name, c := range map[string]struct {
		before string
		want   string
		is     error
	}{
		"an anchor":            {"x-s: &s '12345678'\nnodes:\n- {hostname: attic, serial: *s}\n", "by hand", ErrByHand},
		"an anchored value":    {"nodes:\n- {hostname: attic, serial: &s '12345678', x-t: *s}\n", "", nil},
		"an entry by an alias": {"x-n: &n {hostname: attic, serial: '12345678'}\nnodes:\n- *n\n", "by hand", ErrByHand},
		"no such node":         {"nodes:\n- hostname: cellar\n", `no node "attic"`, nil},
		"no inventory":         {"hostname: attic\n", "no inventory", nil},
		"a mac":                {"nodes:\n- {hostname: attic, mac: 'dc:a6:32:01:02:03'}\n", "a mac too", nil},
		"another node's board": {"nodes:\n- {hostname: attic, serial: '12345678'}\n- {hostname: cellar, serial: '9abcdef0'}\n", "already", nil},
		"a mistake":            {"nodes:\n- {hostname: attic, serial: 1}\n", "8 or 16", nil},
	} {
		file := filepath.Join(t.TempDir(), "nodes.yaml")
		if err := os.WriteFile(file, []byte(c.before), 0o640); err != nil {
			t.Fatal(err)
		}
		_, err := ReplaceBoard(file, "attic", Board{Serial: "9abcdef0"})
		if err == nil || !strings.Contains(err.Error(), c.want) || c.is != nil && !errors.Is(err, c.is) {
			t.Errorf("%s: got error %v, want %q", name, err, c.want)
		}
		if got, _ := os.ReadFile(file); string(got) != c.before {
			t.Errorf("%s: the file is\n%s", name, got)
		}
	}
	// What is written keeps its mode, and a link stays a link.
	dir := t.TempDir()
	if err := os.WriteFile(dir+"/real.yaml", []byte("nodes:\n- hostname: attic\n"), 0o640); err != nil {
		t.Fatal(err)
	}
	if err := os.Symlink("real.yaml", dir+"/nodes.yaml"); err != nil {
		t.Fatal(err)
	}
	if changed, err := ReplaceBoard(dir+"/nodes.yaml", "attic", Board{Serial: "9abcdef0"}); err != nil || !changed {
		t.Fatalf("%v, %v", changed, err)
	}
	if st, err := os.Lstat(dir + "/nodes.yaml"); err != nil || st.Mode()&os.ModeSymlink == 0 {
		t.Errorf("the link is %v, %v", st.Mode(), err)
	}
	if st, err := os.Stat(dir + "/real.yaml"); err != nil || st.Mode().Perm() != 0o640 {
		t.Errorf("the mode is %v, %v", st.Mode(), err)
	}
}

package depends

import (
	"io/fs"
	"os/exec"
	"slices"
	"strings"
	"testing"
	"testing/fstest"
)

func TestSets(t *testing.T) {
	for text, want := range map[string]string{
		"": "", "# x=1\n\n a=1\nb='x $y'\nc=\"x y\" # z\nd=\na=2": "a b c d",
		"a=$x": "!", "a=`x`": "!", "a=\"$x\"": "!", "a=\"x\\\"y\"": "!", "a=1; b=2": "!", "export a=1": "!", "a=1 b": "!", "a='x\ny'": "!",
		"a=x'y'": "!", "a=~": "!", "a=1\nunset a": "!", "a[1]=2": "!", "a='\x00'": "!", "a=1\r": "!", "a=1&": "!", "a=(x)": "!", "a='x'#y": "a",
	} {
		names, plain := Sets([]byte(text))
		got := strings.Join(names, " ")
		if !plain {
			got = "!"
		}
		if got != want {
			t.Errorf("%q: got %q, want %q", text, got, want)
		}
	}
}

func TestState(t *testing.T) {
	root := fstest.MapFS{
		"etc/f": {Data: []byte("x"), Mode: 0o644}, "etc/p": {Data: []byte("x"), Mode: 0o755}, "etc/d/b": {}, "etc/d/a": {},
		"etc/l": {Data: []byte("f"), Mode: fs.ModeSymlink | 0o777}, "etc/s": {Mode: fs.ModeSocket},
		"etc/large": {Data: make([]byte, maxInput+1)},
	}
	for path, want := range map[string]string{
		"/etc/f": FileState([]byte("x"), false), "/etc/p": FileState([]byte("x"), true), "/etc/d": DirState,
		"/etc/d/": NamesState([]string{"a", "b"}),
		"/etc/l":  LinkState("f"), "/etc/none": Absent, "/etc/none/": Absent, "/none/none": Absent, "/etc/s": "!", "/etc/large": "!",
	} {
		got, err := State(root, path)
		if err != nil {
			got = "!"
		}
		if got != want {
			t.Errorf("%s: got %s (%v), want %s", path, got, err, want)
		}
	}
}

func TestExecutable(t *testing.T) {
	if FileState([]byte("x"), true) == FileState([]byte("x"), false) {
		t.Error("a script that can be executed is as one that cannot")
	}
}

// record is one of two services.
func record() Record {
	return Record{
		Inputs: []Input{
			{Path: "/etc/init.d/", State: NamesState([]string{"a", "b"})}, {Path: "/etc/init.d/a", State: FileState([]byte("A"), true)},
			{Path: "/etc/init.d/b", State: FileState([]byte("B"), true)}, {Path: "/etc/conf.d/b", State: Absent},
		},
		Scan: []int{0, 1, 2}, Complete: true,
		Services: []Service{
			{Name: "a", Text: "a\na ineed b\n", Inputs: []int{1}}, {Name: "b", Text: "", Inputs: []int{2, 3}, Variables: []string{"rc_need"}},
		},
	}
}

func machine() fstest.MapFS {
	return fstest.MapFS{"etc/init.d/a": {Data: []byte("A"), Mode: 0o755}, "etc/init.d/b": {Data: []byte("B"), Mode: 0o755}}
}

func TestEncode(t *testing.T) {
	b, err := record().Encode()
	if err != nil {
		t.Fatal(err)
	}
	r, err := Decode(b)
	if err != nil || len(r.Services) != 2 || r.Services[0].Text != "a\na ineed b\n" {
		t.Errorf("%+v, %v", r, err)
	}
	for name, change := range map[string]func(*Record){
		"a quote":       func(r *Record) { r.Services[0].Text = "a'\n" },
		"no end":        func(r *Record) { r.Services[0].Text = "a" },
		"a bad name":    func(r *Record) { r.Services[0].Name = "a'" },
		"a path":        func(r *Record) { r.Services[0].Name = "a/b" },
		"no name":       func(r *Record) { r.Services[0].Name = "" },
		"no such input": func(r *Record) { r.Services[0].Inputs = []int{4} },
		"below zero":    func(r *Record) { r.Scan = []int{-1} },
		"a long text":   func(r *Record) { r.Services[0].Text = strings.Repeat("a\n", maxText) },
	} {
		r := record()
		change(&r)
		if _, err := r.Encode(); err == nil {
			t.Errorf("%s: encoded", name)
		}
	}
}

// TestScript runs what the node leaves in a shell, as gendepends.sh does.
func TestScript(t *testing.T) {
	for name, c := range map[string]struct {
		change func(fstest.MapFS)
		want   string
	}{
		"all":        {func(fstest.MapFS) {}, "a\na ineed b\nall\n"},
		"a is stale": {func(fs fstest.MapFS) { fs["etc/init.d/a"].Data = []byte("C") }, "unknown a\nunknown c\n"},
		"b is stale": {func(fs fstest.MapFS) { fs["etc/conf.d/b"] = &fstest.MapFile{Data: []byte("rc_need=x")} },
			"a\na ineed b\nunknown b\nunknown c\n"},
		"a new one": {func(fs fstest.MapFS) { fs["etc/init.d/c"] = &fstest.MapFile{} }, "a\na ineed b\nunknown c\n"},
	} {
		root := machine()
		c.change(root)
		good := record().On(root)
		script := AllFunction + "() { return 1; }\n" + good.Script() + AllFunction + " && echo all && exit\n" +
			"for _dir in /etc/init.d; do for s in a b c; do " + Function + " $s || echo unknown $s; done; done\n"
		out, err := exec.Command("sh", "-c", script).Output()
		if err != nil || string(out) != c.want {
			t.Errorf("%s: got %q (%v), want %q", name, out, err, c.want)
		}
	}
	root := machine()
	delete(root, "etc/init.d/a")
	elsewhere := record().On(root).Script() + "_dir=/usr/local/etc/init.d; " + Function + " b || echo unknown\n"
	if out, err := exec.Command("sh", "-c", elsewhere).Output(); err != nil || string(out) != "unknown\n" {
		t.Errorf("a script of another directory: %q, %v", out, err)
	}
}

// TestUnaffected: a value that does not matter.
func TestUnaffected(t *testing.T) {
	root := machine()
	root["etc/conf.d/b"] = &fstest.MapFile{Data: []byte("opts=1\n"), Mode: 0o644}
	if good := record().On(root); !good.All || len(good.Stale) > 0 {
		t.Errorf("stale: %v", good.Stale)
	}
	root["etc/conf.d/b"].Mode = 0o755
	if good := record().On(root); good.All || good.Stale["b"] != "/etc/conf.d/b" {
		t.Errorf("stale: %v", good.Stale)
	}
}

// FuzzDecode: what is read is what is written, and its script says what its services
// do, to a shell.
func FuzzDecode(f *testing.F) {
	b, err := record().Encode()
	if err != nil {
		f.Fatal(err)
	}
	f.Add(b)
	f.Add([]byte(`{"services":[{"name":"a","text":"a ineed b*\n","inputs":[]}],"complete":true}`))
	f.Add([]byte(`{"inputs":[{"path":"/etc/../x/","state":""},{"path":"","state":"-"}],"scan":[0,1]}`))
	f.Fuzz(func(t *testing.T, b []byte) {
		r, err := Decode(b)
		if err != nil {
			return
		}
		again, err := r.Encode()
		if err != nil {
			t.Fatal(err)
		}
		same, err := Decode(again)
		if err != nil || len(same.Services) != len(r.Services) {
			t.Fatalf("%v", err)
		}
		script := r.On(machine()).Script()
		if strings.Count(script, "'")%2 != 0 || strings.ContainsAny(script, "\x00`\\") {
			t.Errorf("the script is %q", script)
		}
	})
}

// FuzzSets: names of variables, sorted, each once.
func FuzzSets(f *testing.F) {
	f.Add([]byte("a=1\nb='x'\n# c=2\n"))
	f.Add([]byte("a=\"x\ny\""))
	f.Fuzz(func(t *testing.T, b []byte) {
		names, plain := Sets(b)
		if !slices.IsSorted(names) || !plain && names != nil {
			t.Errorf("%q, %v", names, plain)
		}
	})
}

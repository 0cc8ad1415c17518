package pikelet

import (
	"encoding/json"
	"errors"
	"go/ast"
	"go/parser"
	"go/token"
	"io"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

const module = "github.com/pikelet-os/pikelet"

// sides puts every package on one side. A package that is on none fails the
// test: a new one must say where it belongs.
var sides = map[string]string{
	"":              "shared",
	"boards":        "shared",
	"internal/disk": "shared", "internal/disk/fat": "shared", "internal/disk/medium": "shared", "internal/slots": "shared", "internal/verity": "shared",
	"internal/artifact": "shared", "internal/netboot/plane": "shared", "internal/node": "shared", "internal/node/config": "shared", "internal/strict": "shared", "initramfs/cmdline": "shared",

	// Desk and nodes both fetch images, and write roots; these do things, so they
	// are not shared.
	"internal/artifact/registry": "both", "internal/delta": "both", "internal/packing": "both", "internal/patch": "both", "builder/squashfs": "both", "internal/netboot/bound": "both", "internal/whole": "both", "initramfs/archive": "both",

	"initramfs": "device", "internal/agent": "device", "internal/agent/etc": "device", "internal/agent/early": "device", "internal/agent/datastore": "device", "internal/agent/updater": "device", "internal/reboot": "device",
	"cmd/pikelet-init": "device", "cmd/pikeletd": "device",

	"builder": "build", "builder/spec": "build", "builder/fetch": "build", "builder/device": "build", "builder/lock": "build", "builder/inspect": "build", "builder/cache": "build",
	"layers": "build", "layers/apk": "build", "layers/kmod": "build", "layers/oci": "build", "layers/store": "build", "layers/tarball": "build",
	"overlays":         "build",
	"internal/netboot": "build", "internal/netboot/dhcp": "build", "internal/netboot/eeprom": "build", "internal/netboot/tftp": "build",
	"internal/desk": "build", "internal/crash": "build", "internal/fleet": "build", "internal/cosign": "build", "internal/flash": "build", "internal/registrytest": "build", "internal/schematest": "build", "internal/vm": "build", "internal/tools": "build", "internal/tools/full": "build", "internal/tools/testlog": "build", "internal/vm/bench": "build",
	"cmd/pikelet": "build", "cmd/starter": "build", "internal/tools/mutants": "build",
}

// sharedLibraries are what a shared package may import beside the standard
// library.
var sharedLibraries = map[string][]string{"internal/node/config": {"go.yaml.in/yaml/v3"}, "internal/strict": {"go.yaml.in/yaml/v3"}}

type listed struct {
	ImportPath string
	Name       string
	Standard   bool
	Imports    []string
	Deps       []string
}

func list(t *testing.T) []listed {
	t.Helper()
	touch(t)
	cmd := exec.Command("go", "list", "-json=ImportPath,Name,Standard,Imports,Deps", "./...")
	cmd.Stderr = os.Stderr
	out, err := cmd.Output()
	if err != nil {
		t.Fatal(err)
	}
	var all []listed
	for dec := json.NewDecoder(strings.NewReader(string(out))); ; {
		var p listed
		if err := dec.Decode(&p); errors.Is(err, io.EOF) {
			return all
		} else if err != nil {
			t.Fatal(err)
		}
		all = append(all, p)
	}
}

// touch reads every source file. The test cache watches only what the test
// itself opens: without this, a pass would be served from it whatever
// changed.
func touch(t *testing.T) {
	filepath.WalkDir(".", func(p string, d fs.DirEntry, err error) error {
		if err == nil && d.IsDir() && (p == "build" || p == ".git") {
			return filepath.SkipDir
		}
		if err == nil && (strings.HasSuffix(p, ".go") || filepath.Base(p) == "go.mod") {
			if _, err := os.ReadFile(p); err != nil {
				t.Fatal(err)
			}
		}
		return nil
	})
}

func rel(path string) string { return strings.TrimPrefix(strings.TrimPrefix(path, module), "/") }

func ours(path string) bool { return path == module || strings.HasPrefix(path, module+"/") }

func TestPackagesKeepToTheirSide(t *testing.T) {
	for _, p := range list(t) {
		side, known := sides[rel(p.ImportPath)]
		if !known {
			t.Errorf("%s is on no side; add it to sides in deps_test.go", p.ImportPath)
			continue
		}
		for _, d := range p.Imports {
			if !ours(d) {
				continue
			}
			other := sides[rel(d)]
			switch {
			case side == "shared" && other != "shared":
				t.Errorf("%s imports %s: a shared package runs on the desk and on the node, so it may need neither", p.ImportPath, d)
			case side == "both" && other != "shared" && other != "both":
				t.Errorf("%s imports %s: desk and nodes both run it, so it may need neither", p.ImportPath, d)
			case side == "device" && other == "build":
				t.Errorf("%s imports %s: builders do not belong on a node", p.ImportPath, d)
			case side == "build" && other == "device":
				t.Errorf("%s imports %s: what runs on a node mounts, loads and reboots; a desk must not", p.ImportPath, d)
			}
		}
	}
}

func TestSharedPackagesDescribeOnly(t *testing.T) {
	for _, p := range list(t) {
		if sides[rel(p.ImportPath)] != "shared" {
			continue
		}
		for _, d := range p.Imports {
			first, _, _ := strings.Cut(d, "/")
			if strings.Contains(first, ".") && !ours(d) && !slices.Contains(sharedLibraries[rel(p.ImportPath)], d) {
				t.Errorf("%s imports %s: shared packages live on the standard library", p.ImportPath, d)
			}
		}
		for _, d := range p.Deps {
			if d == "net/http" || d == "os/exec" {
				t.Errorf("%s reaches %s: shared packages describe things, they do not do them", p.ImportPath, d)
			}
		}
	}
}

// TestInitStaysSmall: net/http triples the size of a program, and /init is in
// every initramfs.
func TestInitStaysSmall(t *testing.T) {
	for _, p := range list(t) {
		if rel(p.ImportPath) == "cmd/pikelet-init" && slices.Contains(p.Deps, "net/http") {
			t.Error("/init reaches net/http, which alone is 4 MB")
		}
	}
}

// TestBelowCmdNothingReadsTheWorld: a build is a function of its inputs.
func TestBelowCmdNothingReadsTheWorld(t *testing.T) {
	forbidden := map[string]string{
		"time.Now": "the clock", "os.Getenv": "the environment", "os.LookupEnv": "the environment", "os.Environ": "the environment",
		"os.Chdir": "the working folder", "log.Fatal": "an exit outside main", "log.Fatalf": "an exit outside main", "os.Exit": "an exit outside main",
	}
	for pkg, side := range sides {
		if strings.HasPrefix(pkg, "cmd/") || strings.HasPrefix(pkg, "internal/vm") || strings.HasPrefix(pkg, "internal/tools") || pkg == "internal/registrytest" || side == "device" {
			continue // these start things, or run machines and nodes in real time
		}
		dir := pkg
		if dir == "" {
			dir = "."
		}
		files, _ := filepath.Glob(filepath.Join(dir, "*.go"))
		for _, name := range files {
			if strings.HasSuffix(name, "_test.go") {
				continue
			}
			set := token.NewFileSet()
			f, err := parser.ParseFile(set, name, nil, 0)
			if err != nil {
				t.Fatal(err)
			}
			ast.Inspect(f, func(n ast.Node) bool {
				if sel, ok := n.(*ast.SelectorExpr); ok {
					if x, ok := sel.X.(*ast.Ident); ok {
						if why := forbidden[x.Name+"."+sel.Sel.Name]; why != "" {
							t.Errorf("%s uses %s.%s: %s must not reach a build", set.Position(n.Pos()), x.Name, sel.Sel.Name, why)
						}
					}
				}
				return true
			})
		}
	}
}

// TestEveryPackageIsExplained: go doc is the tour.
func TestEveryPackageIsExplained(t *testing.T) {
	for pkg := range sides {
		dir := filepath.Join(".", pkg)
		files, _ := filepath.Glob(filepath.Join(dir, "*.go"))
		found := 0
		for _, name := range files {
			f, err := parser.ParseFile(token.NewFileSet(), name, nil, parser.ParseComments|parser.PackageClauseOnly)
			if err != nil {
				t.Fatal(err)
			}
			if f.Doc != nil && !strings.HasSuffix(name, "_test.go") {
				found++
			}
		}
		if found != 1 {
			t.Errorf("package %q has %d package comments, want one", pkg, found)
		}
	}
}

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

// A side is where packages run. The tree shows it: each package lies below one
// of these prefixes, and one that does not fails the test.
type side string

const (
	shared side = "shared" // describes and encodes what crosses from a computer to a node
	device side = "device" // runs on nodes: mounts, loads modules, reboots
	host   side = "host"   // runs on a person's computer or in CI
)

var sides = []struct {
	prefix string
	side   side
}{
	{"boards", shared}, {"internal/shared", shared},
	{"initramfs", device}, {"internal/device", device},
	{"cmd/pikelet-init", device}, {"cmd/pikeletd", device}, {"cmd/pikelet-rollout", device}, {"cmd/pikelet-backup", device},
	{"builder", host}, {"layers", host}, {"overlays", host}, {"internal/host", host}, {"internal/testing", host}, {"internal/tools", host},
	{"cmd/pikelet", host}, {"cmd/starter", host},
}

// sideOf returns the side of a package, "" for none. The package at the top
// holds no code.
func sideOf(pkg string) side {
	if pkg == "" {
		return shared
	}
	for _, s := range sides {
		if pkg == s.prefix || strings.HasPrefix(pkg, s.prefix+"/") {
			return s.side
		}
	}
	return ""
}

// sharedLibraries are what a shared package may import beside the standard
// library and golang.org/x. Programs of the node hold them too, so each counts.
var sharedLibraries = map[string][]string{
	"internal/shared/backup":         {"filippo.io/age", "github.com/klauspost/compress/zstd"},
	"internal/shared/backup/store":   {"github.com/minio/minio-go/v7", "github.com/pkg/sftp"},
	"internal/shared/delta":          {"github.com/klauspost/compress/zstd"},
	"internal/shared/image/patch":    {"github.com/klauspost/compress/zstd"},
	"internal/shared/image/registry": {"github.com/google/go-containerregistry"},
	"internal/shared/initrd":         {"github.com/cavaliergopher/cpio", "github.com/klauspost/compress/zstd"},
	"internal/shared/nodeconfig":     {"go.yaml.in/yaml/v3"},
	"internal/shared/recompress":     {"github.com/klauspost/compress/gzip", "github.com/klauspost/compress/zstd"},
	"internal/shared/rollout/controller": {
		"github.com/go-logr/logr", "k8s.io/api", "k8s.io/apimachinery", "k8s.io/client-go", "k8s.io/klog/v2", "sigs.k8s.io/controller-runtime",
	},
	"internal/shared/rollout/v1alpha1": {"k8s.io/apimachinery"},
	"internal/shared/squashfs":         {"github.com/klauspost/compress/zstd", "github.com/ulikunitz/xz"},
	"internal/shared/yamlcheck":        {"go.yaml.in/yaml/v3"},
}

// sharedActs are the shared packages that do more than describe, with the
// reason.
var sharedActs = map[string]string{
	"internal/shared/backup/store":       "computers and nodes keep backups in the same stores, over the network",
	"internal/shared/image/registry":     "computers and nodes fetch images over HTTP, and credential helpers are programs",
	"internal/shared/rollout/controller": "servers of a cluster and computers carry out rollouts, through an API server",
	"internal/shared/rollout/v1alpha1":   "Kubernetes' own types of an object reach net/http",
}

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
		from := sideOf(rel(p.ImportPath))
		if from == "" {
			t.Errorf("%s is on no side; move it below a directory of one (sides in deps_test.go)", p.ImportPath)
			continue
		}
		for _, d := range p.Imports {
			if to := sideOf(rel(d)); ours(d) && to != from && to != shared {
				t.Errorf("%s (%s) imports %s (%s): packages import their own side and shared ones", p.ImportPath, from, d, to)
			}
		}
	}
}

// TestSidesCoverTheTree: a new directory says on which side it is, and none of
// the rules is about a directory that is gone.
func TestSidesCoverTheTree(t *testing.T) {
	for _, s := range sides {
		if st, err := os.Stat(s.prefix); err != nil || !st.IsDir() {
			t.Errorf("sides has %s, which is no directory", s.prefix)
		}
	}
	if got := sideOf("elsewhere/deviceful"); got != "" {
		t.Errorf("a directory beside them is on side %q", got)
	}
	if got := sideOf("cmd/pikelet-init"); got != device {
		t.Errorf("cmd/pikelet-init is on side %q", got)
	}
}

func TestSharedPackagesDescribeOnly(t *testing.T) {
	for _, p := range list(t) {
		pkg := rel(p.ImportPath)
		if sideOf(pkg) != shared {
			continue
		}
		for _, d := range p.Imports {
			first, _, _ := strings.Cut(d, "/")
			allowed := strings.HasPrefix(d, "golang.org/x/") || slices.ContainsFunc(sharedLibraries[pkg], func(lib string) bool {
				return d == lib || strings.HasPrefix(d, lib+"/")
			})
			if strings.Contains(first, ".") && !ours(d) && !allowed {
				t.Errorf("%s imports %s: sharedLibraries in deps_test.go lists what shared packages import", p.ImportPath, d)
			}
		}
		for _, d := range p.Deps {
			if (d == "net/http" || d == "os/exec") && sharedActs[pkg] == "" {
				t.Errorf("%s reaches %s: shared packages describe and encode; sharedActs in deps_test.go has the exceptions", p.ImportPath, d)
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

// TestPackagesReadNoClockOrEnvironment: a build is a function of its inputs.
func TestPackagesReadNoClockOrEnvironment(t *testing.T) {
	forbidden := map[string]string{
		"time.Now": "the clock", "os.Getenv": "the environment", "os.LookupEnv": "the environment", "os.Environ": "the environment",
		"os.Chdir": "the working directory", "log.Fatal": "an exit outside main", "log.Fatalf": "an exit outside main",
		"os.Exit": "an exit outside main",
	}
	for _, p := range list(t) {
		pkg := rel(p.ImportPath)
		if pkg == "internal/host/cli" || sideOf(pkg) == device || slices.ContainsFunc(
			[]string{"cmd/", "internal/testing/", "internal/tools"}, func(p string) bool { return strings.HasPrefix(pkg, p) }) {
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

// TestEveryPackageHasOneComment: go doc is the tour.
func TestEveryPackageHasOneComment(t *testing.T) {
	for _, p := range list(t) {
		pkg := rel(p.ImportPath)
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

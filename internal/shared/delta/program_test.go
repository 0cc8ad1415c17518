package delta

import (
	"bytes"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
)

// built builds a program for arm64.
func built(t *testing.T, source string) []byte {
	t.Helper()
	dir := t.TempDir()
	for name, text := range map[string]string{"go.mod": "module example\n\ngo 1.26\n", "main.go": source} {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	cmd := exec.Command("go", "build", "-trimpath", "-buildvcs=false", "-ldflags=-s -w", "-o", "program", ".")
	cmd.Dir = dir
	cmd.Env = append(os.Environ(), "GOOS=linux", "GOARCH=arm64", "CGO_ENABLED=0", "GOFLAGS=")
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	b, err := os.ReadFile(filepath.Join(dir, "program"))
	if err != nil {
		t.Fatal(err)
	}
	return b
}

const before = `package main

import (
	"fmt"
	"os"
	"strings"
)

func words(s string) (n int) {
	for range strings.FieldsSeq(s) {
		n++
	}
	return n
}

func main() { fmt.Println(words(strings.Join(os.Args, " "))) }
`

// TestProgram: a function that is put into a program moves all that is behind
// it. With its addresses foreseen the patch is far smaller than without, and
// makes the very program.
func TestProgram(t *testing.T) {
	after := strings.Replace(before, "func main() {", `func longest(s string) (most string) {
	for w := range strings.FieldsSeq(s) {
		if len(w) > len(most) {
			most = w
		}
	}
	return strings.ToUpper(most)
}

func main() {
	fmt.Fprintln(os.Stderr, longest(strings.Join(os.Args, "+")))
`, 1)
	old, new := built(t, before), built(t, after)
	if bytes.Equal(old, new) {
		t.Fatal("nothing changed")
	}
	order, err := suffixes(old)
	if err != nil {
		t.Fatal(err)
	}
	plain, err := pack(Plain, nil, old, new, matches(old, new, order), func([]byte, int64, int64) {})
	if err != nil {
		t.Fatal(err)
	}
	patch, err := Make(old, new)
	if err != nil {
		t.Fatal(err)
	}
	h, err := ReadHead(bytes.NewReader(patch), int64(len(patch)))
	if err != nil || h.Transform != Arm64 {
		t.Fatalf("transform %d, %v", h.Transform, err)
	}
	t.Logf("%d bytes; plain %d, foreseen %d", len(new), len(plain), len(patch))
	if 10*len(patch) > 7*len(plain) {
		t.Errorf("foreseeing its addresses took a patch of %d bytes to %d only", len(plain), len(patch))
	}
	for _, p := range [][]byte{plain, patch} {
		got, err := applied(t, old, p)
		if err != nil || !bytes.Equal(got, new) {
			t.Errorf("%d bytes came, %v", len(got), err)
		}
	}
}

// TestInvalidTransformIsRefused: the parameters of a transform are bounded, and
// no address lies outside of the file.
func TestInvalidTransformIsRefused(t *testing.T) {
	old := bytes.Repeat([]byte{0, 0, 0, 0x94, 0, 0, 0, 0x90, 0, 0, 0, 0x91}, 100)
	l := layout{{0, 1200, 0x10000, 1200, true}}
	whole := program{layout: l}
	good := encodePrograms(whole, whole)
	make := func(params []byte) []byte {
		b, err := pack(Arm64, params, old, old, []piece{{0, 1200, 0}},
			newPredictor(whole, whole, bytes.NewReader(old), []piece{{0, 1200, 0}}).rewrite)
		if err != nil {
			t.Fatal(err)
		}
		return b
	}
	if got, err := applied(t, old, make(good)); err != nil || !bytes.Equal(got, old) {
		t.Fatal(err)
	}
	for name, l := range map[string]layout{
		"outside":           {{0, 1201, 0x10000, 1201, true}},
		"begins outside":    {{1201, 0, 0x10000, 10, true}},
		"larger than it is": {{0, 1200, 0x10000, 10, true}},
		"huge in memory":    {{0, 1200, 0x10000, 1 << 50, true}},
		"at the end":        {{0, 1200, 1<<64 - 8, 1200, true}},
		"too many":          make17(),
	} {
		if _, err := applied(t, old, make(encodePrograms(program{layout: l}, program{layout: l}))); err == nil {
			t.Errorf("%s: it is taken", name)
		}
	}
	for _, params := range [][]byte{nil, good[:len(good)-1], append(append([]byte(nil), good...), 0)} {
		if _, err := applied(t, old, make(params)); err == nil {
			t.Errorf("%d bytes of params are taken", len(params))
		}
	}
}

func make17() (l layout) {
	for range maxSegments + 1 {
		l = append(l, segment{0, 1, 1, 1, false})
	}
	return l
}

func FuzzLayout(f *testing.F) {
	f.Add([]byte("\x7fELF"))
	f.Fuzz(func(t *testing.T, b []byte) {
		if l, ok := layoutOf(b); ok {
			if again, err := decodeLayout(bytes.NewReader(l.encode(nil)), int64(len(b))); err != nil || len(again) != len(l) {
				t.Errorf("%+v became %+v, %v", l, again, err)
			}
			masked(b, program{layout: l})
		}
	})
}

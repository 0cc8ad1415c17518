package rolloutfile

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"go.yaml.in/yaml/v3"

	"github.com/pikelet-os/pikelet/internal/shared/hint"
)

const repository = "registry.example/pi/homelab"

// reference is what is written.
var reference = repository + ":1.5@sha256:" + strings.Repeat("ab", 32)

// rollout returns a Rollout whose image is written so.
func rollout(image string) string {
	return "apiVersion: pikelet.dev/v1alpha1\nkind: Rollout\nmetadata: {name: homelab}\nspec:\n  image: " + image + "\n"
}

// before and after are a file with all that has to stay.
const before = `# Which release the cluster runs. ` + "\u00e4\u00f6\u00fc" + `
%s---
# Pods may be disturbed one at a time.
apiVersion: policy/v1
kind: PodDisruptionBudget
metadata: {name: web, "quoted": 'too'}
spec: {maxUnavailable: 1, selector: {matchLabels: {image: registry.example/pi/homelab:1.4}}}
---
kind:   Rollout   # order is people's
spec:
    windows:
    - {days: [Saturday], time: "02:00-05:00"}

    image:    "registry.example/pi/homelab:1.4"   # the trailing comment stays
    maxUnavailable: 25%%
apiVersion: 'pikelet.dev/v1alpha1'
---
apiVersion: pikelet.dev/v1alpha1
kind: Rollout
spec: {soak: 5m, image: registry.example/pi/attic:1.4}
...
---
{"apiVersion": "pikelet.dev/v1alpha1", "kind": "Rollout", "spec": {"image": "registry.example/pi/homelab@sha256:12"}}
`

// TestSetImageLeavesTheRest: of a file with six documents the bytes of the three
// images of the repository change, and no others.
func TestSetImageLeavesTheRest(t *testing.T) {
	file := strings.NewReplacer("%s", "", "%%", "%").Replace(before)
	want := file
	for _, old := range []string{`    "registry.example/pi/homelab:1.4"   #`, `"registry.example/pi/homelab@sha256:12"`} {
		image := strings.Trim(old, ` "#`)
		if strings.Count(want, old) != 1 {
			t.Fatalf("%q is there %d times", old, strings.Count(want, old))
		}
		want = strings.Replace(want, old, strings.Replace(old, image, reference, 1), 1)
	}
	got, err := SetImage([]byte(file), repository, reference)
	if d := cmp.Diff(want, string(got)); err != nil || d != "" {
		t.Fatalf("%v\n%s", err, d)
	}
	again, err := SetImage(got, repository, reference)
	if err != nil || !bytes.Equal(again, got) {
		t.Errorf("a second time (%v):\n%s", err, again)
	}
}

// TestSetImageForms: an image is replaced as it is written, by the golden text.
func TestSetImageForms(t *testing.T) {
	for was, want := range map[string]string{
		repository:                         reference,
		repository + ":1.4":                reference,
		repository + "@sha256:12":          reference,
		repository + ":1.4@sha256:12 # it": reference + " # it",
		"'" + repository + ":1.4'":         "'" + reference + "'",
		`"` + repository + `:1.4"`:         `"` + reference + `"`,
		"\n    " + repository:              "\n    " + reference,
		"|\n    " + repository:             "",
		">-\n    " + repository:            "",
		"!!str " + repository:              "",
		"&i " + repository:                 "",
		`"registry.example/pi\/homelab"`:   "",
		"[" + repository + "]":             "",
		"":                                 "",
		repository + "s:1.4":               "",
		"registry.example:5000/pi/homelab": "",
	} {
		for ending, file := range map[string]string{
			"LF": rollout(was), "CRLF": strings.ReplaceAll(rollout(was), "\n", "\r\n"), "no newline": strings.TrimSuffix(rollout(was), "\n"),
			"NEL": "# one\u0085# two\u2028# three\r" + rollout(was), "BOM": "\ufeff" + rollout(was),
		} {
			wanted := strings.Replace(file, strings.ReplaceAll(was, "\n", eol(file)), strings.ReplaceAll(want, "\n", eol(file)), 1)
			got, err := SetImage([]byte(file), repository, reference)
			switch {
			case want == "" && err == nil:
				t.Errorf("%q with %s: no error, and %q", was, ending, got)
			case want == "" && got != nil:
				t.Errorf("%q with %s: %q beside the error %v", was, ending, got, err)
			case want != "" && (err != nil || string(got) != wanted):
				t.Errorf("%q with %s: %q (%v), want %q", was, ending, got, err, wanted)
			}
		}
	}
}

// eol returns how lines of a file end.
func eol(file string) string {
	if strings.Contains(file, "\r\n") {
		return "\r\n"
	}
	return "\n"
}

// TestSetImageSaysWhatToDo: errors say what, where and what to write.
func TestSetImageSaysWhatToDo(t *testing.T) {
	for _, c := range []struct {
		file string
		is   error
		want []string
	}{
		{"", ErrNoRollout, []string{"no Rollout of the repository " + repository,
			"write a document with apiVersion: pikelet.dev/v1alpha1, kind: Rollout and spec: {image: " + repository + "}"}},
		{"# nothing\n", ErrNoRollout, nil},
		{"a: &image b\n" + rollout("x") + "  *image : " + repository + "\n", ErrNoRollout, []string{`line 6 has an image of "x"`}},
		{"- a list\n", ErrNoRollout, nil},
		{strings.Replace(rollout(repository), "v1alpha1", "v1", 1), ErrNoRollout, nil},
		{strings.Replace(rollout(repository), "Rollout", "Deployment", 1), ErrNoRollout, nil},
		{rollout("registry.example/pi/attic:1.0"), ErrNoRollout, []string{`line 5 has an image of "registry.example/pi/attic"`}},
		{"a: 1\n" + rollout("&i "+repository), ErrForm, []string{"line 6: ", "anchor", "image: " + repository}},
		{rollout("|\n    " + repository), ErrForm, []string{"line 5: ", "block"}},
		{"x: &i " + repository + "\n" + rollout("*i"), ErrForm, []string{"line 6: ", "alias", "image: " + repository}},
		{rollout("x\n  image: " + repository), nil, []string{"line 6: image is there twice, first on line 5: remove one"}},
		{rollout(repository + "\nspec: {}"), nil, []string{"spec is there twice"}},
		{"a: [\n", nil, []string{"not YAML: line 1: "}},
		{"\xff\xfea\x00", nil, []string{"not UTF-8"}},
	} {
		got, err := SetImage([]byte(c.file), repository, reference)
		if err == nil || got != nil || c.is != nil && !errors.Is(err, c.is) {
			t.Errorf("%q: %q, %v", c.file, got, err)
			continue
		}
		text := err.Error() + "\n" + strings.Join(hint.Of(err), "\n")
		for _, want := range c.want {
			if !strings.Contains(text, want) {
				t.Errorf("%q: no %q in\n%s", c.file, want, text)
			}
		}
	}
}

// FuzzSetImage: what comes out has the same documents, but for the images of the
// repository's Rollouts, and comes out again as it is.
func FuzzSetImage(f *testing.F) {
	f.Add([]byte(strings.NewReplacer("%s", "", "%%", "%").Replace(before)))
	for _, image := range []string{
		repository, "'" + repository + "'", "\"" + repository + "\" # c", "|\n    " + repository, "*a", "\n   " + repository + "\n   x",
		repository + " x", "!!str " + repository, "? " + repository,
	} {
		f.Add([]byte(rollout(image)))
		f.Add([]byte("a: &a " + repository + "\n" + strings.ReplaceAll(rollout(image), "\n", "\r\n") + "---\n" + rollout(image)))
	}
	f.Add([]byte("{apiVersion: pikelet.dev/v1alpha1, kind: Rollout, spec: {\u00e4: \"\u2028\", image: registry.example/pi/homelab}}"))
	f.Add([]byte("0x0:\n" + rollout(repository)))
	f.Add([]byte("&kind a: &image b\n" + rollout("x") + "  *image : " + repository + "\n"))
	f.Fuzz(func(t *testing.T, file []byte) {
		got, err := SetImage(file, repository, reference)
		if err != nil {
			if got != nil {
				t.Fatalf("%q beside the error %v", got, err)
			}
			return
		}
		was, now := documents(t, file), documents(t, got)
		if len(was) != len(now) {
			t.Fatalf("%d documents became %d", len(was), len(now))
		}
		changed := 0
		for i := range was {
			spec, ok := named(was[i]["spec"]).(map[string]any)
			if ok {
				was[i]["spec"], now[i]["spec"] = spec, named(now[i]["spec"])
			}
			image, _ := spec["image"].(string)
			name, _, _ := strings.Cut(strings.TrimPrefix(image, repository), "@")
			ours := was[i]["kind"] == "Rollout" && was[i]["apiVersion"] == "pikelet.dev/v1alpha1"
			if ours && strings.HasPrefix(image, repository) && (name == "" || name[0] == ':' && !strings.ContainsAny(name, "/")) {
				spec["image"] = reference
				changed++
			}
			if d := cmp.Diff(was[i], now[i]); d != "" {
				t.Fatalf("document %d: %s", i, d)
			}
		}
		if changed == 0 {
			t.Fatal("there is nothing to change, and no error")
		}
		if again, err := SetImage(got, repository, reference); err != nil || !bytes.Equal(again, got) {
			t.Fatalf("a second time: %v\n%s", err, again)
		}
	})
}

// documents decodes the documents of a file by a path that SetImage does not take:
// into values.
func documents(t *testing.T, file []byte) (list []map[string]any) {
	for dec := yaml.NewDecoder(bytes.NewReader(file)); ; {
		var v any
		err := dec.Decode(&v)
		if errors.Is(err, io.EOF) {
			return list
		}
		if err != nil {
			t.Skip("documents that are no values: ", err)
		}
		m, ok := named(v).(map[string]any)
		if !ok {
			m = map[string]any{"": v}
		}
		list = append(list, m)
	}
}

// named returns a value whose maps have strings as keys, of whatever type they are.
func named(v any) any {
	m, ok := v.(map[any]any)
	if !ok {
		return v
	}
	to := map[string]any{}
	for k, v := range m {
		name, ok := k.(string)
		if !ok {
			name = fmt.Sprintf("%T %v", k, k)
		}
		to[name] = named(v)
	}
	return to
}

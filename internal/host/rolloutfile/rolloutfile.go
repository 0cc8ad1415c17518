// Package rolloutfile changes which image the Rollouts of a YAML file name, and
// nothing else of the file: comments, order and formatting are people's.
package rolloutfile

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"
	"unicode/utf8"

	"go.yaml.in/yaml/v3"

	"github.com/pikelet-os/pikelet/internal/shared/hint"
	"github.com/pikelet-os/pikelet/internal/shared/image/registry"
)

// What makes a document a Rollout.
const (
	apiVersion = "pikelet.dev/v1alpha1"
	kind       = "Rollout"
)

// ErrNoRollout is returned for a file without a Rollout of the repository.
var ErrNoRollout = errors.New("no Rollout of the repository")

// ErrForm is returned for an image that is written in a form which cannot be
// replaced where it stands: an alias, a block, a value with an anchor.
var ErrForm = errors.New("the image cannot be replaced")

// SetImage returns a file in which each Rollout whose image is of a repository
// names reference instead. Of the file's bytes only those of the images change. A
// file may have any number of documents, of other kinds too. Where an error is
// returned, no part of the file has to be changed.
func SetImage(file []byte, repository, reference string) ([]byte, error) {
	if !utf8.Valid(file) {
		return nil, errors.New("not UTF-8: write the file as UTF-8 text")
	}
	documents, err := parse(file)
	if err != nil {
		return nil, err
	}
	var images []*yaml.Node
	var others []string // images of other repositories
	for _, d := range documents {
		image, err := imageOf(d)
		switch {
		case err != nil:
			return nil, err
		case image == nil:
		case registry.Name(value(image)) == repository:
			images = append(images, image)
		default:
			others = append(others, fmt.Sprintf("line %d has an image of %q", image.Line, registry.Name(value(image))))
		}
	}
	if len(images) == 0 {
		err := fmt.Errorf("%w %s", ErrNoRollout, repository)
		if len(others) > 0 {
			err = fmt.Errorf("%w: %s", err, strings.Join(others, ", "))
		}
		return nil, hint.Withf(err, "write a document with apiVersion: %s, kind: %s and spec: {image: %s}", apiVersion, kind, repository)
	}
	changed, err := replace(file, images, reference)
	if err != nil {
		return nil, err
	}
	// What was found by line and column is read once more: a file is left alone
	// rather than damaged.
	for _, i := range images {
		i.Value = reference
	}
	if again, err := parse(changed); err != nil || !slices.EqualFunc(documents, again, equal) {
		return nil, fmt.Errorf("line %d: %w: the file would mean something else: write the image on a line of its own, as %s",
			images[0].Line, ErrForm, reference)
	}
	return changed, nil
}

// parse returns the documents of a file.
func parse(file []byte) ([]*yaml.Node, error) {
	var list []*yaml.Node
	for dec := yaml.NewDecoder(bytes.NewReader(file)); ; {
		n := new(yaml.Node)
		err := dec.Decode(n)
		if errors.Is(err, io.EOF) {
			return list, nil
		}
		if err != nil {
			return nil, fmt.Errorf("not YAML: %s", strings.TrimPrefix(err.Error(), "yaml: "))
		}
		list = append(list, n)
	}
}

// imageOf returns the image of a document; nil where it is no Rollout, or names
// none.
func imageOf(document *yaml.Node) (*yaml.Node, error) {
	if len(document.Content) != 1 {
		return nil, nil
	}
	top := document.Content[0]
	for name, want := range map[string]string{"apiVersion": apiVersion, "kind": kind} {
		n, err := field(top, name)
		if err != nil || n == nil || value(n) != want {
			return nil, nil // of another kind, and others' to check
		}
	}
	n, err := field(top, "spec")
	if err != nil || n == nil {
		return nil, err
	}
	if n.Kind == yaml.AliasNode {
		n = n.Alias
	}
	return field(n, "image")
}

// field returns the value of a key of a mapping; nil where there is none.
func field(mapping *yaml.Node, key string) (found *yaml.Node, err error) {
	if mapping.Kind != yaml.MappingNode {
		return nil, nil
	}
	for i := 0; i+1 < len(mapping.Content); i += 2 {
		k := mapping.Content[i]
		if k.Kind != yaml.ScalarNode || k.Value != key { // the value of an alias is its name
			continue
		}
		if found != nil {
			return nil, fmt.Errorf("line %d: %s is there twice, first on line %d: remove one", k.Line, key, found.Line)
		}
		found = mapping.Content[i+1]
	}
	return found, nil
}

// value returns the text of a scalar, or of the one that an alias names.
func value(n *yaml.Node) string {
	if n.Kind == yaml.AliasNode {
		n = n.Alias
	}
	if n.Kind != yaml.ScalarNode {
		return ""
	}
	return strings.TrimSpace(n.Value)
}

// replace returns a file with other text in place of the images, which are in the
// order in which they stand there.
func replace(file []byte, images []*yaml.Node, reference string) ([]byte, error) {
	var changed []byte
	done := 0
	for _, n := range images {
		text, err := written(n)
		if err != nil {
			return nil, err
		}
		at := offset(file, n.Line, n.Column)
		if at < done || !bytes.HasPrefix(file[at:], []byte(text)) {
			return nil, refuse(n, "it is not written as it is read")
		}
		quote := text[:(len(text)-len(n.Value))/2]
		changed = append(changed, file[done:at]...)
		changed = append(changed, quote+reference+quote...)
		done = at + len(text)
	}
	return append(changed, file[done:]...), nil
}

// written returns how an image stands in the file, in the forms that can be
// replaced.
func written(n *yaml.Node) (string, error) {
	switch {
	case n.Kind == yaml.AliasNode:
		return "", refuse(n, "it is an alias")
	case n.Anchor != "":
		return "", refuse(n, "it has an anchor, by which other values may be the same")
	case n.Style == 0:
		return n.Value, nil
	case n.Style == yaml.SingleQuotedStyle:
		return "'" + n.Value + "'", nil
	case n.Style == yaml.DoubleQuotedStyle:
		return `"` + n.Value + `"`, nil
	}
	return "", refuse(n, "it is a block or has a tag")
}

// refuse returns ErrForm about an image, and why.
func refuse(n *yaml.Node, why string) error {
	return hint.With(fmt.Errorf("line %d: %w: %s", n.Line, ErrForm, why), "write the reference itself on the line: image: "+value(n))
}

// offset returns where a line and column of the YAML library are in a file, or -1.
// Both are from 1 on; columns are characters, and lines end as in YAML 1.1.
func offset(file []byte, line, column int) int {
	at := 0
	for ; line > 1; line-- {
		i := bytes.IndexAny(file[at:], "\n\r\u0085\u2028\u2029")
		if i < 0 {
			return -1
		}
		at += i
		if bytes.HasPrefix(file[at:], []byte("\r\n")) {
			at++
		}
		_, size := utf8.DecodeRune(file[at:])
		at += size
	}
	for ; column > 1; column-- {
		if at >= len(file) {
			return -1
		}
		_, size := utf8.DecodeRune(file[at:])
		at += size
	}
	return at
}

// equal reports whether two documents mean the same, and are written in the same
// style. Where in a file they stand, and comments, are left aside.
func equal(a, b *yaml.Node) bool {
	alias := (a.Alias == nil) == (b.Alias == nil) && (a.Alias == nil || a.Alias.Anchor == b.Alias.Anchor)
	return alias && a.Kind == b.Kind && a.Style == b.Style && a.Tag == b.Tag && a.Value == b.Value && a.Anchor == b.Anchor &&
		slices.EqualFunc(a.Content, b.Content, equal)
}

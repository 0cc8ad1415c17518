package apk

import (
	"bytes"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"strings"

	"github.com/pikelet-os/pikelet/layers/apk/adb"
)

// Limits of format 3. The block of values of a package has about 90 bytes for each
// file, that of an index about 500 for each package; maxControl and maxIndex
// bound them. What they say all in all is larger, because equal values are
// there once: maxDecoded bounds that.
const (
	maxDecoded    = 256 << 20
	maxSignatures = 64
)

// readValues returns the block of values of a file of format 3, of at most limit
// bytes, whose signature by a key of the ring is checked. The stream is then at
// the first block of data, or at its end: err of the last Next is next.
func readValues(s *adb.Stream, schema adb.Schema, limit int64, keys Keyring) (values []byte, next error, err error) {
	if s.Schema != schema {
		return nil, nil, fmt.Errorf("the file has the schema %s, want %s", s.Schema, schema)
	}
	if err := s.Next(); err != nil {
		if errors.Is(err, io.EOF) {
			err = errors.New("no block of values in the file")
		}
		return nil, nil, err
	}
	if s.Kind != adb.Values {
		return nil, nil, fmt.Errorf("the first block is of kind %s, want %s", s.Kind, adb.Values)
	}
	if values, err = s.ReadAll(limit); err != nil {
		return nil, nil, err
	}
	var list []signature3
	for {
		if next = s.Next(); next != nil || s.Kind != adb.Signature {
			break
		}
		if len(list) == maxSignatures {
			return nil, nil, fmt.Errorf("more than %d signatures", maxSignatures)
		}
		b, err := s.ReadAll(maxSign)
		if err != nil {
			return nil, nil, err
		}
		list = append(list, parseSignature3(b))
	}
	if next != nil && next != io.EOF {
		return nil, nil, next
	}
	if next == nil && s.Kind != adb.Data {
		return nil, nil, fmt.Errorf("a block of kind %s behind the first", s.Kind)
	}
	return values, next, keys.verify3(schema, values, list)
}

// readIndex3 reads an index of format 3.
func readIndex3(b []byte, keys Keyring) (*Index, error) {
	s, err := adb.Open(bytes.NewReader(b))
	if err != nil {
		return nil, err
	}
	defer s.Close()
	values, next, err := readValues(s, adb.Index, maxIndex, keys)
	if err != nil {
		return nil, err
	}
	if next == nil {
		return nil, fmt.Errorf("a block of kind %s behind the signatures", s.Kind)
	}
	db, err := adb.NewDB(values, maxDecoded)
	if err != nil {
		return nil, err
	}
	root, err := db.Root().List()
	if err != nil {
		return nil, fmt.Errorf("the root: %w", err)
	}
	return parseIndex3(root)
}

// Numbers of an index's fields.
const (
	indexDescription = 1
	indexPackages    = 2
	indexFileNames   = 3
)

// fileNames are the patterns for the names of packages' files that come to what
// FileName returns.
var fileNames = []string{"", "${name}-${version}.apk", "${arch}/${name}-${version}.apk"}

// parseIndex3 returns the packages of an index. Those without an identity that
// is known are skipped, as apk does, and those for another layer than the root.
func parseIndex3(root adb.List) (*Index, error) {
	x := &Index{}
	b, err := root.At(indexDescription).Bytes()
	if err != nil {
		return nil, fmt.Errorf("description: %w", err)
	}
	x.Description = string(b)
	if b, err = root.At(indexFileNames).Bytes(); err != nil {
		return nil, fmt.Errorf("pkgname-spec: %w", err)
	}
	known := false
	for _, name := range fileNames {
		known = known || name == string(b)
	}
	if !known {
		return nil, fmt.Errorf("pkgname-spec: packages are called %q; only %s is supported", b, strings.Join(fileNames[1:], " or "))
	}
	list, err := root.At(indexPackages).List()
	if err != nil {
		return nil, fmt.Errorf("packages: %w", err)
	}
	for i := 1; i <= list.Len(); i++ {
		p, skip, err := parseRecord3(list.At(i))
		if err != nil {
			return nil, fmt.Errorf("packages[%d]: %w", i, err)
		}
		if skip != "" {
			x.Skipped = append(x.Skipped, Skipped{Package: p.String(), Field: skip})
		} else {
			x.Packages = append(x.Packages, p)
		}
	}
	return x, nil
}

// parseRecord3 reads a package's record, and the name of the field for which it
// is to be skipped.
func parseRecord3(v adb.Value) (p *Package, skip string, err error) {
	info, err := v.List()
	if err != nil {
		return nil, "", err
	}
	p, err = parseInfo3(info)
	if err != nil {
		return nil, "", err
	}
	sum, err := info.At(infoHashes).Bytes()
	if err != nil {
		return nil, "", fmt.Errorf("hashes: %w", err)
	}
	layer, err := info.At(infoLayer).Int()
	if err != nil {
		return nil, "", fmt.Errorf("layer: %w", err)
	}
	switch {
	case len(sum) != shortDigest && len(sum) != sha256.Size:
		skip = "hashes"
	case layer != 0:
		skip = "layer"
	default:
		p.Identity = identityOf(sum)
	}
	return p, skip, nil
}

// Numbers of a package's fields.
const (
	packageInfo             = 1
	packagePaths            = 2
	packageScripts          = 3
	packageTriggers         = 4
	packageReplacesPriority = 5
)

// scripts3 are the names of a package's scripts, by number.
var scripts3 = []string{
	1: ".trigger", ".pre-install", ".post-install", ".pre-deinstall", ".post-deinstall", ".pre-upgrade", ".post-upgrade",
}

// openArchive3 checks a package of format 3 as far as its files.
func openArchive3(r *io.SectionReader, want *Package, keys Keyring) (*Archive, error) {
	s, err := adb.Open(r)
	if err != nil {
		return nil, err
	}
	defer s.Close()
	values, _, err := readValues(s, adb.Package, maxControl, keys)
	if err != nil {
		return nil, err
	}
	sum := sha256.Sum256(values)
	identity, err := checkIdentity(want.Identity, identityOf(sum[:]), identityOf(sum[:shortDigest]))
	if err != nil {
		return nil, err
	}
	a := &Archive{name: want.String(), Scripts: map[string][]byte{}, data: r, values: values}
	if err := a.parse3(); err != nil {
		return nil, err
	}
	a.Info.Identity, a.Info.Size, a.Info.Repository = identity, r.Size(), want.Repository
	if a.Info.Name != want.Name || a.Info.Version != want.Version {
		return nil, fmt.Errorf("the package calls itself %s", a.Info)
	}
	return a, nil
}

// root3 returns the package's fields, to be decoded from the start.
func (a *Archive) root3() (adb.List, error) {
	db, err := adb.NewDB(a.values, maxDecoded)
	if err != nil {
		return adb.List{}, err
	}
	root, err := db.Root().List()
	if err != nil {
		return adb.List{}, fmt.Errorf("the root: %w", err)
	}
	return root, nil
}

// parse3 reads all that is not about files.
func (a *Archive) parse3() error {
	root, err := a.root3()
	if err != nil {
		return err
	}
	info, err := root.At(packageInfo).List()
	if err == nil {
		a.Info, err = parseInfo3(info)
	}
	if err != nil {
		return fmt.Errorf("info: %w", err)
	}
	scripts, err := root.At(packageScripts).List()
	if err != nil {
		return fmt.Errorf("scripts: %w", err)
	}
	for i, name := range scripts3 {
		b, err := scripts.At(i).Bytes()
		if err != nil {
			return fmt.Errorf("scripts: %s: %w", name, err)
		}
		if len(b) > 0 {
			a.Scripts[name] = bytes.Clone(b) // the block is larger, and is not kept
		}
	}
	triggers, err := root.At(packageTriggers).List()
	if err != nil {
		return fmt.Errorf("triggers: %w", err)
	}
	for i := 1; i <= triggers.Len(); i++ {
		text, err := word(triggers.At(i))
		if err != nil {
			return fmt.Errorf("triggers[%d]: %w", i, err)
		}
		a.Info.Triggers = append(a.Info.Triggers, text)
	}
	if a.Info.ReplacesPriority, err = small(root.At(packageReplacesPriority)); err != nil {
		return fmt.Errorf("replaces-priority: %w", err)
	}
	return nil
}

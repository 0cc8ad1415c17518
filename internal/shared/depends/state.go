package depends

import (
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"regexp"
	"slices"
	"strings"
)

// Absent is the state of what is not there.
const Absent = "-"

// maxInput is the size of the largest file whose bytes are looked at: of larger
// ones builder/script refuses to read any.
const maxInput = 8 << 20

// LinkState is the state of a symbolic link.
func LinkState(to string) string { return "link " + to }

// FileState is the state of a file with these bytes. Whether it can be executed
// decides whether gendepends.sh takes it for a service.
func FileState(b []byte, executable bool) string {
	sum := sha256.Sum256(b)
	kind := "file "
	if executable {
		kind = "program "
	}
	return kind + hex.EncodeToString(sum[:16])
}

// DirState is the state of a directory.
const DirState = "directory"

// NamesState is the state of the names in a directory, sorted.
func NamesState(names []string) string {
	sum := sha256.Sum256([]byte(strings.Join(names, "\n")))
	return "names " + hex.EncodeToString(sum[:16])
}

// State returns the state of a path in a root.
func State(root fs.FS, path string) (string, error) {
	name := strings.Trim(path, "/")
	if strings.HasSuffix(path, "/") {
		entries, err := fs.ReadDir(root, name)
		if errors.Is(err, fs.ErrNotExist) {
			return Absent, nil
		}
		names := make([]string, 0, len(entries))
		for _, e := range entries {
			names = append(names, e.Name())
		}
		slices.Sort(names)
		return NamesState(names), err
	}
	info, err := fs.Lstat(root, name)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return Absent, nil
	case err != nil:
		return "", err
	case info.IsDir():
		return DirState, nil
	case info.Mode().Type() == fs.ModeSymlink:
		to, err := fs.ReadLink(root, name)
		return LinkState(to), err
	case !info.Mode().IsRegular():
		return "", fmt.Errorf("/%s is no file", name)
	}
	b, err := read(root, name)
	return FileState(b, info.Mode()&0o111 != 0), err
}

func read(root fs.FS, name string) ([]byte, error) {
	f, err := root.Open(name)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	b, err := io.ReadAll(io.LimitReader(f, maxInput+1))
	if err == nil && len(b) > maxInput {
		err = fmt.Errorf("/%s has more than %d bytes", name, maxInput)
	}
	return b, err
}

// assignment is a line that gives a variable a value without anything that a
// shell would expand.
var assignment = regexp.MustCompile(`^([A-Za-z_][A-Za-z0-9_]*)=(?:"[^"$` + "`" + `\\]*"|'[^']*'|[A-Za-z0-9_./:,@%+-]*)[ \t]*(?:#.*)?$`)

// Sets returns the variables that a file of conf.d sets, sorted, and reports
// whether it does nothing but giving variables plain values.
func Sets(text []byte) (names []string, plain bool) {
	if bytes.IndexByte(text, 0) >= 0 {
		return nil, false
	}
	for line := range strings.SplitSeq(string(text), "\n") {
		line = strings.Trim(line, " \t")
		if line == "" || line[0] == '#' {
			continue
		}
		m := assignment.FindStringSubmatch(line)
		if m == nil {
			return nil, false
		}
		names = append(names, m[1])
	}
	slices.Sort(names)
	return slices.Compact(names), true
}

package adbtest

import (
	"crypto/sha256"
	"encoding/binary"
	"fmt"
	"strconv"
	"strings"
)

// Parts are what a package is made of: its values, and the blocks of data in
// their order.
type Parts struct {
	Root   List
	Values []byte
	Data   [][]byte
}

// Numbers of a record's fields that lines of text name.
var numbers = map[string]int{"name": 1, "version": 2, "hashes": 3, "description": 4, "arch": 5, "license": 6, "origin": 7, "maintainer": 8,
	"url": 9, "repo-commit": 10, "build-time": 11, "installed-size": 12, "file-size": 13, "provider-priority": 14, "depends": 15,
	"provides": 16, "replaces": 17, "install-if": 18, "recommends": 19, "layer": 20, "tags": 21}

// Record returns the record of a package from lines of a name and a value; other
// lines are left to Package.
func Record(text string) List {
	record := make(List, 21)
	for line := range strings.SplitSeq(strings.TrimSpace(text), "\n") {
		key, value, _ := strings.Cut(strings.TrimSpace(line), " ")
		n := numbers[key]
		switch key {
		case "depends", "provides", "replaces", "install-if", "recommends":
			var list Array
			for _, d := range strings.Fields(value) {
				list = append(list, dependency(d))
			}
			record[n-1] = list
		case "tags":
			var list Array
			for _, tag := range strings.Fields(value) {
				list = append(list, tag)
			}
			record[n-1] = list
		case "build-time", "installed-size", "file-size", "provider-priority", "layer":
			record[n-1] = number(value, 10)
		default:
			if n > 0 {
				record[n-1] = plain(value)
			}
		}
	}
	return record
}

// plain returns a value that may be quoted.
func plain(s string) string {
	if strings.HasPrefix(s, `"`) {
		s, err := strconv.Unquote(s)
		if err != nil {
			panic(err)
		}
		return s
	}
	return s
}

func number(s string, base int) uint64 {
	n, err := strconv.ParseUint(s, base, 64)
	if err != nil {
		panic(err)
	}
	return n
}

func dependency(s string) List {
	match := 0
	s, conflict := strings.CutPrefix(s, "!")
	if conflict {
		match = 16
	}
	i := strings.IndexAny(s, "<>=~")
	if i < 0 {
		return List{s, nil, matchOf(match)}
	}
	name, rest := s[:i], s[i:]
	for rest != "" && strings.IndexByte("<>=~", rest[0]) >= 0 {
		match |= map[byte]int{'=': 1, '<': 2, '>': 4, '~': 9}[rest[0]]
		rest = rest[1:]
	}
	if match == 1 { // apk leaves it out
		match = 0
	}
	return List{name, rest, matchOf(match)}
}

func matchOf(n int) any {
	if n == 0 {
		return nil
	}
	return n
}

var scriptNumbers = map[string]int{"trigger": 1, "pre-install": 2, "post-install": 3, "pre-deinstall": 4, "post-deinstall": 5,
	"pre-upgrade": 6, "post-upgrade": 7}

// Package reads the text of a package: the lines of a record, and
//
//	dir PATH MODE USER GROUP
//	file PATH MODE USER GROUP MTIME CONTENTS
//	link PATH MODE USER GROUP MTIME TARGET
//	hard PATH MODE USER GROUP MTIME TARGET
//	char|block PATH MODE USER GROUP MTIME MAJOR:MINOR
//	fifo PATH MODE USER GROUP MTIME
//	xattr NAME VALUE           of the line before
//	script KIND CONTENTS
//	trigger PATH
//	replaces-priority NUMBER
//
// where the last word of a line may be a Go string in quotes. A file's directory
// comes before it; the root, whose path is ".", too.
func Package(text string) *Parts {
	p := &Parts{Root: List{Record(text), nil, make(List, 7), nil, nil}}
	var paths, triggers Array
	dirs := map[string]int{}
	var last List // directory or file, for attributes
	for line := range strings.SplitSeq(strings.TrimSpace(text), "\n") {
		kind, rest, _ := strings.Cut(strings.TrimSpace(line), " ")
		switch kind {
		case "dir":
			f := strings.Fields(rest)
			name := f[0]
			if name == "." {
				name = ""
			}
			last = List{name, acl(f), Array{}}
			paths = append(paths, last)
			dirs[name] = len(paths)
		case "file", "link", "hard", "char", "block", "fifo":
			var path string
			path, last = file(kind, strings.SplitN(rest, " ", 6))
			dir := path[:max(0, strings.LastIndexByte(path, '/'))]
			n := dirs[dir]
			if n == 0 {
				panic("no directory before " + path)
			}
			list := append(paths[n-1].(List)[2].(Array), last)
			paths[n-1].(List)[2] = list
			if kind == "file" && last[2] != 0 {
				contents := plain(strings.SplitN(rest, " ", 6)[5])
				p.Data = append(p.Data, Block(DataBlock, Data(n, len(list), contents)))
			}
		case "xattr":
			name, value, _ := strings.Cut(rest, " ")
			a := last[1].(List)
			list, _ := a[3].(Array)
			a[3] = append(list, name+"\x00"+plain(value))
		case "script":
			name, value, _ := strings.Cut(rest, " ")
			p.Root[2].(List)[scriptNumbers[name]-1] = plain(value)
		case "trigger":
			triggers = append(triggers, rest)
		case "replaces-priority":
			p.Root[4] = number(rest, 10)
		}
	}
	p.Root[1], p.Root[3] = List(paths), triggers
	p.Values = Values(p.Root)
	return p
}

// Data returns the contents of a file's block of data.
func Data(dir, file int, contents string) []byte {
	b := binary.LittleEndian.AppendUint32(nil, uint32(dir))
	b = binary.LittleEndian.AppendUint32(b, uint32(file))
	return append(b, contents...)
}

func acl(f []string) List { return List{number(f[1], 8), f[2], f[3], nil} }

// file returns the path and the value of a file's line.
func file(kind string, f []string) (string, List) {
	v := List{f[0][strings.LastIndexByte(f[0], '/')+1:], acl(f), nil, number(f[4], 10), nil, nil}
	last := ""
	if len(f) > 5 {
		last = plain(f[5])
	}
	target := func(mode uint16, rest string) string {
		return string(binary.LittleEndian.AppendUint16(nil, mode)) + rest
	}
	switch kind {
	case "file":
		sum := sha256.Sum256([]byte(last))
		v[2], v[4] = len(last), string(sum[:])
	case "link":
		v[2], v[5] = len(last), target(0o120000, last)
	case "hard":
		v[5] = target(0o100000, last)
	case "fifo":
		v[5] = target(0o010000, strings.Repeat("\x00", 8))
	default:
		var major, minor uint64
		if _, err := fmt.Sscanf(last, "%d:%d", &major, &minor); err != nil {
			panic(err)
		}
		n := major&0xfff<<8 | major>>12<<44 | minor&0xff | minor>>8<<20
		mode := map[string]uint16{"char": 0o020000, "block": 0o060000}[kind]
		v[5] = target(mode, string(binary.LittleEndian.AppendUint64(nil, n)))
	}
	return f[0], v
}

package kmod

import (
	"bytes"
	"encoding/binary"
	"sort"
)

// The .bin files of depmod are tries that kmod maps into memory; busybox reads
// the texts beside them. Numbers are big-endian. Constants and layout are
// those of kmod's libkmod-index, which must read them.
const (
	indexMagic   = 0xB007F457
	indexVersion = 0x00020001

	nodePrefix = 0x80000000 // flags in the upper bits of a node's offset
	nodeValues = 0x40000000
	nodeChilds = 0x20000000
)

type trieNode struct {
	prefix string
	values []trieValue
	next   map[byte]*trieNode
}

type trieValue struct {
	priority uint32
	text     string
}

func (n *trieNode) insert(key, value string, priority uint32) {
	i := 0
	for i < len(key) && i < len(n.prefix) && key[i] == n.prefix[i] {
		i++
	}
	if i < len(n.prefix) { // split
		rest := &trieNode{prefix: n.prefix[i+1:], values: n.values, next: n.next}
		*n = trieNode{prefix: n.prefix[:i], next: map[byte]*trieNode{n.prefix[i]: rest}}
	}
	if i == len(key) {
		for _, v := range n.values {
			if v.text == value {
				return
			}
		}
		n.values = append(n.values, trieValue{priority, value})
		sort.SliceStable(n.values, func(a, b int) bool { return n.values[a].priority < n.values[b].priority })
		return
	}
	child := n.next[key[i]]
	if child == nil {
		if n.next == nil {
			n.next = map[byte]*trieNode{}
		}
		n.next[key[i]] = &trieNode{prefix: key[i+1:], values: []trieValue{{priority, value}}}
		return
	}
	child.insert(key[i+1:], value, priority)
}

// write appends the node behind its children and returns its offset, flags
// included.
func (n *trieNode) write(w *bytes.Buffer) uint32 {
	var first, last byte
	offsets := map[byte]uint32{}
	for c := 0; c < 256; c++ {
		child := n.next[byte(c)]
		if child == nil {
			continue
		}
		if len(offsets) == 0 {
			first = byte(c)
		}
		last = byte(c)
		offsets[byte(c)] = child.write(w)
	}
	at := uint32(w.Len())
	number := func(v uint32) { w.Write(binary.BigEndian.AppendUint32(nil, v)) }
	if n.prefix != "" {
		w.WriteString(n.prefix)
		w.WriteByte(0)
		at |= nodePrefix
	}
	if len(offsets) > 0 {
		w.WriteByte(first)
		w.WriteByte(last)
		for c := int(first); c <= int(last); c++ {
			number(offsets[byte(c)])
		}
		at |= nodeChilds
	}
	if len(n.values) > 0 {
		number(uint32(len(n.values)))
		for _, v := range n.values {
			number(v.priority)
			w.WriteString(v.text)
			w.WriteByte(0)
		}
		at |= nodeValues
	}
	return at
}

func (n *trieNode) encode() []byte {
	var w bytes.Buffer
	w.Write(binary.BigEndian.AppendUint32(binary.BigEndian.AppendUint32(nil, indexMagic), indexVersion))
	w.Write(make([]byte, 4))
	root := n.write(&w)
	b := w.Bytes()
	binary.BigEndian.PutUint32(b[8:], root)
	return b
}

// Indexes returns modules.dep.bin and its like, by name: what kmod's modprobe
// reads instead of the texts.
func (s *Set) Indexes() (map[string][]byte, error) {
	text, err := s.Dep()
	if err != nil {
		return nil, err
	}
	var dep, alias, builtin trieNode
	for i, line := range bytes.Split(bytes.TrimSpace(text), []byte("\n")) {
		file, _, _ := bytes.Cut(line, []byte(":"))
		if name := NameOf(string(file)); name != "" {
			dep.insert(name, string(line), uint32(i))
		}
	}
	for i, m := range s.sorted() {
		for _, a := range m.Aliases {
			alias.insert(canonicalAlias(a), m.Name, uint32(i))
		}
	}
	var names []string
	for name := range s.Builtin {
		names = append(names, name)
	}
	sort.Strings(names)
	for i, name := range names {
		builtin.insert(name, "", uint32(i))
	}
	return map[string][]byte{
		"modules.dep.bin": dep.encode(), "modules.alias.bin": alias.encode(), "modules.builtin.bin": builtin.encode(),
		// Requests for symbols are not made by anything we know; kmod only
		// wants the file to be there.
		"modules.symbols.bin": (&trieNode{}).encode(), "modules.builtin.alias.bin": (&trieNode{}).encode(),
	}, nil
}

// canonicalAlias spells an alias as kmod looks it up: dashes are underscores,
// except between brackets.
func canonicalAlias(a string) string {
	b := []byte(a)
	in := false
	for i, c := range b {
		switch {
		case c == '[':
			in = true
		case c == ']':
			in = false
		case c == '-' && !in:
			b[i] = '_'
		}
	}
	return string(b)
}

// SoftDep returns modules.softdep: what modprobe loads before a module where
// it is there.
func (s *Set) SoftDep() []byte {
	var b bytes.Buffer
	b.WriteString("# Soft dependencies extracted from modules themselves.\n")
	for _, m := range s.sorted() {
		if len(m.Soft) > 0 {
			b.WriteString("softdep " + m.Name + " pre:")
			for _, d := range m.Soft {
				b.WriteString(" " + d)
			}
			b.WriteByte('\n')
		}
	}
	return b.Bytes()
}

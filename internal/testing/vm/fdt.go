package vm

import (
	"encoding/binary"
	"errors"
	"fmt"
)

// fdt is a flattened device tree, read, edited and written again: the
// firmware leaves what it knows of a boot in the kernel's device tree, and so
// does its model. Format: Devicetree Specification 0.4, chapter 5.
type fdt struct {
	bootCPU  uint32
	reserved []byte // the memory reservation block, terminator included
	root     *fdtNode
}

type fdtNode struct {
	name     string
	props    []fdtProp
	children []*fdtNode
}

type fdtProp struct {
	name  string
	value []byte
}

const (
	fdtMagic     = 0xd00dfeed
	fdtHeader    = 40
	fdtBeginNode = 1
	fdtEndNode   = 2
	fdtPropToken = 3
	fdtNop       = 4
	fdtEnd       = 9
)

var errFDT = errors.New("invalid device tree")

func parseFDT(b []byte) (*fdt, error) {
	be := binary.BigEndian
	if len(b) < fdtHeader || be.Uint32(b) != fdtMagic || be.Uint32(b[20:]) < 17 {
		return nil, fmt.Errorf("%w: want version 17 or later", errFDT)
	}
	structAt, stringsAt, reservedAt := be.Uint32(b[8:]), be.Uint32(b[12:]), be.Uint32(b[16:])
	if int(structAt) > len(b) || int(stringsAt) > len(b) || int(reservedAt) > len(b) {
		return nil, errFDT
	}
	t := &fdt{bootCPU: be.Uint32(b[28:])}
	for at := int(reservedAt); ; at += 16 {
		if at+16 > len(b) {
			return nil, errFDT
		}
		t.reserved = append(t.reserved, b[at:at+16]...)
		if be.Uint64(b[at:]) == 0 && be.Uint64(b[at+8:]) == 0 {
			break
		}
	}
	p := fdtParser{b: b[structAt:], strings: b[stringsAt:]}
	if p.token() != fdtBeginNode {
		return nil, errFDT
	}
	var err error
	t.root, err = p.node(0)
	return t, err
}

type fdtParser struct {
	b, strings []byte
}

func (p *fdtParser) token() uint32 {
	for len(p.b) >= 4 {
		tok := binary.BigEndian.Uint32(p.b)
		p.b = p.b[4:]
		if tok != fdtNop {
			return tok
		}
	}
	return fdtEnd
}

// take returns n bytes and skips the padding to the next 4-byte border.
func (p *fdtParser) take(n int) ([]byte, bool) {
	end := (n + 3) &^ 3
	if n < 0 || end > len(p.b) {
		return nil, false
	}
	out := p.b[:n]
	p.b = p.b[end:]
	return out, true
}

func cString(b []byte) (string, bool) {
	for i, c := range b {
		if c == 0 {
			return string(b[:i]), true
		}
	}
	return "", false
}

func (p *fdtParser) node(depth int) (*fdtNode, error) {
	name, ok := cString(p.b)
	if !ok || depth > 64 {
		return nil, errFDT
	}
	if _, ok := p.take(len(name) + 1); !ok {
		return nil, errFDT
	}
	n := &fdtNode{name: name}
	for {
		switch p.token() {
		case fdtPropToken:
			head, ok := p.take(8)
			if !ok {
				return nil, errFDT
			}
			value, ok := p.take(int(binary.BigEndian.Uint32(head)))
			at := int(binary.BigEndian.Uint32(head[4:]))
			if !ok || at > len(p.strings) {
				return nil, errFDT
			}
			prop, ok := cString(p.strings[at:])
			if !ok {
				return nil, errFDT
			}
			n.props = append(n.props, fdtProp{prop, value})
		case fdtBeginNode:
			c, err := p.node(depth + 1)
			if err != nil {
				return nil, err
			}
			n.children = append(n.children, c)
		case fdtEndNode:
			return n, nil
		default:
			return nil, errFDT
		}
	}
}

// child returns the named child, made where it is not there.
func (n *fdtNode) child(name string) *fdtNode {
	for _, c := range n.children {
		if c.name == name {
			return c
		}
	}
	c := &fdtNode{name: name}
	n.children = append(n.children, c)
	return c
}

func (n *fdtNode) set(name string, value []byte) {
	for i := range n.props {
		if n.props[i].name == name {
			n.props[i].value = value
			return
		}
	}
	n.props = append(n.props, fdtProp{name, value})
}

func (n *fdtNode) setUint32(name string, v uint32) {
	n.set(name, binary.BigEndian.AppendUint32(nil, v))
}

func (n *fdtNode) setString(name, s string) { n.set(name, append([]byte(s), 0)) }

func (t *fdt) encode() []byte {
	be := binary.BigEndian
	var body, table []byte
	offsets := map[string]uint32{}
	pad := func() {
		for len(body)%4 != 0 {
			body = append(body, 0)
		}
	}
	var emit func(n *fdtNode)
	emit = func(n *fdtNode) {
		body = be.AppendUint32(body, fdtBeginNode)
		body = append(append(body, n.name...), 0)
		pad()
		for _, p := range n.props {
			at, ok := offsets[p.name]
			if !ok {
				at = uint32(len(table))
				offsets[p.name] = at
				table = append(append(table, p.name...), 0)
			}
			body = be.AppendUint32(body, fdtPropToken)
			body = be.AppendUint32(body, uint32(len(p.value)))
			body = be.AppendUint32(body, at)
			body = append(body, p.value...)
			pad()
		}
		for _, c := range n.children {
			emit(c)
		}
		body = be.AppendUint32(body, fdtEndNode)
	}
	emit(t.root)
	body = be.AppendUint32(body, fdtEnd)

	reservedAt := uint32(fdtHeader)
	structAt := reservedAt + uint32(len(t.reserved))
	stringsAt := structAt + uint32(len(body))
	var out []byte
	for _, v := range []uint32{fdtMagic, stringsAt + uint32(len(table)), structAt, stringsAt, reservedAt, 17, 16, t.bootCPU,
		uint32(len(table)), uint32(len(body))} {
		out = be.AppendUint32(out, v)
	}
	out = append(out, t.reserved...)
	out = append(out, body...)
	return append(out, table...)
}

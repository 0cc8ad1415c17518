// Package adbtest writes packages and indexes of apk's format 3 for tests
// (docs/platform.md 5.9), from text or value by value, damaged ones too. It is
// written apart from the reader, and apk itself judges what it writes (make
// oracle-adb). What it is asked for and cannot write is a panic.
package adbtest

import (
	"bytes"
	"crypto"
	"crypto/ecdsa"
	"crypto/rand"
	"crypto/rsa"
	"crypto/sha512"
	"crypto/x509"
	"encoding/binary"
	"fmt"
	"slices"

	"github.com/klauspost/compress/flate"
	"github.com/klauspost/compress/zstd"
)

// List is an object: values by number, from 1 on. A value is nil, an int, an
// uint64, a string, a List, an Array or a Word.
type List []any

// Array is a List that is marked as an array.
type Array []any

// Word is a value as it stands in the file, type and offset.
type Word uint32

type encoder struct {
	b    []byte
	seen map[string]uint32 // offsets of equal data
}

// Values returns a block's contents with a root.
func Values(root any) []byte {
	e := &encoder{b: make([]byte, 8), seen: map[string]uint32{}}
	word := e.value(root)
	binary.LittleEndian.PutUint32(e.b[4:], word)
	return e.b
}

func (e *encoder) value(v any) uint32 {
	switch v := v.(type) {
	case nil:
		return 0
	case Word:
		return uint32(v)
	case int:
		return e.number(uint64(v))
	case uint64:
		return e.number(v)
	case string:
		return e.blob(v)
	case List:
		return e.list(0xe, v)
	case Array:
		return e.list(0xd, v)
	}
	panic(fmt.Sprintf("no value of format 3: %T", v))
}

func (e *encoder) number(n uint64) uint32 {
	switch {
	case n < 1<<28:
		return 1<<28 | uint32(n)
	case n < 1<<32:
		return 2<<28 | e.data(binary.LittleEndian.AppendUint32(nil, uint32(n)), 4)
	}
	return 3<<28 | e.data(binary.LittleEndian.AppendUint64(nil, n), 4)
}

func (e *encoder) blob(s string) uint32 {
	switch n := len(s); {
	case n == 0:
		return 0
	case n < 1<<8:
		return 8<<28 | e.data(append([]byte{byte(n)}, s...), 1)
	case n < 1<<16:
		return 9<<28 | e.data(append(binary.LittleEndian.AppendUint16(nil, uint16(n)), s...), 2)
	}
	return 10<<28 | e.data(append(binary.LittleEndian.AppendUint32(nil, uint32(len(s))), s...), 4)
}

func (e *encoder) list(kind uint32, list []any) uint32 {
	words := []uint32{0}
	for _, v := range list {
		words = append(words, e.value(v))
	}
	for len(words) > 1 && words[len(words)-1] == 0 {
		words = words[:len(words)-1]
	}
	if len(words) == 1 {
		return 0
	}
	words[0] = uint32(len(words))
	var b []byte
	for _, w := range words {
		b = binary.LittleEndian.AppendUint32(b, w)
	}
	return kind<<28 | e.data(b, 4)
}

func (e *encoder) data(b []byte, alignment int) uint32 {
	key := fmt.Sprint(alignment, " ", string(b))
	if at, there := e.seen[key]; there {
		return at
	}
	e.b = append(e.b, make([]byte, -len(e.b)&(alignment-1))...)
	at := uint32(len(e.b))
	e.b = append(e.b, b...)
	e.seen[key] = at
	return at
}

// The kinds of blocks.
const (
	ValuesBlock    = 0
	SignatureBlock = 1
	DataBlock      = 2
)

// Block returns a block with its header and padding.
func Block(kind uint32, contents []byte) []byte {
	b := binary.LittleEndian.AppendUint32(nil, kind<<30|uint32(4+len(contents)))
	return pad(append(b, contents...))
}

// LongBlock is Block with the header for large ones.
func LongBlock(kind uint32, contents []byte) []byte {
	b := binary.LittleEndian.AppendUint32(nil, 3<<30|kind)
	b = binary.LittleEndian.AppendUint32(b, 0)
	b = binary.LittleEndian.AppendUint64(b, uint64(16+len(contents)))
	return pad(append(b, contents...))
}

func pad(b []byte) []byte { return append(b, make([]byte, -len(b)&7)...) }

// KeyID returns what signatures call a key.
func KeyID(key crypto.Signer) []byte {
	var b []byte
	switch k := key.Public().(type) {
	case *rsa.PublicKey:
		b = x509.MarshalPKCS1PublicKey(k)
	case *ecdsa.PublicKey:
		point, err := k.ECDH()
		if err != nil {
			panic(err)
		}
		b = point.Bytes()
	}
	sum := sha512.Sum512(b)
	return sum[:16]
}

// Sign returns the block of a signature over a block's values.
func Sign(key crypto.Signer, schema string, values []byte) []byte {
	head := append([]byte{0, 4}, KeyID(key)...)
	inner := sha512.Sum512(values)
	message := sha512.Sum512(slices.Concat([]byte(schema), head, inner[:]))
	sig, err := key.Sign(rand.Reader, message[:], crypto.SHA512)
	if err != nil {
		panic(err)
	}
	return Block(SignatureBlock, append(head, sig...))
}

// Compression is how a file is packed.
type Compression string

// The compressions, and two ways to say deflate.
const (
	None         Compression = "none"
	Deflate      Compression = "deflate"
	DeflateLevel Compression = "deflate:6"
	Zstd         Compression = "zstd"
)

// File returns a file of blocks.
func File(c Compression, schema string, blocks ...[]byte) []byte {
	plain := slices.Concat([]byte("ADB."+schema), slices.Concat(blocks...))
	switch c {
	case None:
		return plain
	case Zstd:
		z, err := zstd.NewWriter(nil)
		if err != nil {
			panic(err)
		}
		return z.EncodeAll(plain, []byte("ADBc\x02\x09"))
	}
	b := bytes.NewBufferString("ADBd")
	if c == DeflateLevel {
		b = bytes.NewBufferString("ADBc\x01\x06")
	}
	w, err := flate.NewWriter(b, 6)
	if err != nil {
		panic(err)
	}
	if _, err := w.Write(plain); err != nil {
		panic(err)
	}
	if err := w.Close(); err != nil {
		panic(err)
	}
	return b.Bytes()
}

// Signed returns a file whose values are signed by some keys.
func Signed(c Compression, schema string, values []byte, keys []crypto.Signer, data ...[]byte) []byte {
	blocks := [][]byte{Block(ValuesBlock, values)}
	for _, k := range keys {
		blocks = append(blocks, Sign(k, schema, values))
	}
	return File(c, schema, append(blocks, data...)...)
}

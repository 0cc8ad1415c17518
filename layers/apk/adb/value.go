package adb

import (
	"encoding/binary"
	"errors"
	"fmt"
)

// A block of values begins with the lowest version of the format that can read it,
// the version that wrote it, two reserved bytes, and the root.
const valuesHeader = 8

// A value is a word of 32 bits: a type in the high four, and in the low 28 the
// value or the offset in the block where it is.
const (
	typeSpecial = 0x0
	typeInt     = 0x1
	typeInt32   = 0x2
	typeInt64   = 0x3
	typeBlob8   = 0x8
	typeBlob16  = 0x9
	typeBlob32  = 0xa
	typeArray   = 0xd
	typeObject  = 0xe

	lowBits = 1<<28 - 1
)

// ErrTooMuch is returned where values that share what they refer to come to
// more than the limit.
var ErrTooMuch = errors.New("the values refer to more than the limit allows")

// DB is a block of values. It is read by one goroutine at a time.
type DB struct {
	b    []byte
	left int64
}

// NewDB returns the values of a block. Values share what they refer to, so a small
// block may hold a large tree: what is decoded of it all in all, with 16 bytes
// for each value, may have limit bytes.
func NewDB(b []byte, limit int64) (*DB, error) {
	if len(b) < valuesHeader {
		return nil, fmt.Errorf("the block of values has %d bytes, want %d at least", len(b), valuesHeader)
	}
	if b[0] != 0 {
		return nil, fmt.Errorf("the block of values needs a reader of version %d, this is one of version 0", b[0])
	}
	return &DB{b: b, left: limit}, nil
}

// Root returns the value that all others are reached from.
func (d *DB) Root() Value { return Value{d, binary.LittleEndian.Uint32(d.b[4:])} }

// take counts what is decoded.
func (d *DB) take(n int) error {
	if d.left -= int64(n) + 16; d.left < 0 {
		return ErrTooMuch
	}
	return nil
}

// Value is one value. The zero value is null.
type Value struct {
	db   *DB
	word uint32
}

// IsNull reports whether there is no value.
func (v Value) IsNull() bool { return v.word == 0 }

func (v Value) kind() uint32 { return v.word >> 28 }
func (v Value) low() int64   { return int64(v.word & lowBits) }

// at returns n bytes of the block from the value's offset plus skip.
func (v Value) at(skip, n int64) ([]byte, error) {
	from := v.low() + skip
	if size := int64(len(v.db.b)); from > size || n > size-from {
		return nil, fmt.Errorf("%d bytes at offset %d are outside the block of values, which has %d", n, from, size)
	}
	return v.db.b[from : from+n], nil
}

func (v Value) want(what string) error { return fmt.Errorf("the value %#08x is not %s", v.word, what) }

// Int returns a number, 0 for null.
func (v Value) Int() (uint64, error) {
	if v.IsNull() {
		return 0, nil
	}
	if err := v.db.take(0); err != nil {
		return 0, err
	}
	switch v.kind() {
	case typeInt:
		return uint64(v.low()), nil
	case typeInt32:
		b, err := v.at(0, 4)
		if err != nil {
			return 0, err
		}
		return uint64(binary.LittleEndian.Uint32(b)), nil
	case typeInt64:
		b, err := v.at(0, 8)
		if err != nil {
			return 0, err
		}
		return binary.LittleEndian.Uint64(b), nil
	}
	return 0, v.want("a number")
}

// Bytes returns the bytes of a blob, nil for null. They are part of the block.
func (v Value) Bytes() ([]byte, error) {
	if v.IsNull() {
		return nil, nil
	}
	width := int64(0)
	switch v.kind() {
	case typeBlob8:
		width = 1
	case typeBlob16:
		width = 2
	case typeBlob32:
		width = 4
	default:
		return nil, v.want("a string of bytes")
	}
	b, err := v.at(0, width)
	if err != nil {
		return nil, err
	}
	var size [4]byte
	copy(size[:], b)
	if b, err = v.at(width, int64(binary.LittleEndian.Uint32(size[:]))); err != nil {
		return nil, err
	}
	return b, v.db.take(len(b))
}

// List is an object or an array: values by number, from 1 on. apk writes some
// arrays as objects, so the two are read alike.
type List struct {
	db    *DB
	slots []byte // without the first, which is how many there are
}

// List returns the values of an object or an array, none for null.
func (v Value) List() (List, error) {
	if v.IsNull() {
		return List{}, nil
	}
	if v.kind() != typeArray && v.kind() != typeObject {
		return List{}, v.want("an object or an array")
	}
	b, err := v.at(0, 4)
	if err != nil {
		return List{}, err
	}
	n := int64(binary.LittleEndian.Uint32(b)) - 1 // the count counts itself
	if n < 0 {
		return List{}, fmt.Errorf("the object at offset %d has 0 slots, want 1 at least", v.low())
	}
	if b, err = v.at(4, 4*n); err != nil {
		return List{}, err
	}
	return List{v.db, b}, v.db.take(len(b))
}

// Len returns how many values there are.
func (l List) Len() int { return len(l.slots) / 4 }

// At returns a value by its number, null where there is none.
func (l List) At(number int) Value {
	if number < 1 || number > l.Len() {
		return Value{}
	}
	return Value{l.db, binary.LittleEndian.Uint32(l.slots[4*(number-1):])}
}

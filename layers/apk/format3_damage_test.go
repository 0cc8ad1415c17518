package apk

import (
	"archive/tar"
	"bytes"
	"crypto"
	"encoding/binary"
	"errors"
	"io"
	"slices"
	"strings"
	"testing"

	"github.com/pikelet-os/pikelet/internal/shared/hint"
	"github.com/pikelet-os/pikelet/internal/testing/adbtest"
	"github.com/pikelet-os/pikelet/layers/apk/adb"
)

// read3 opens a package and reads all of it.
func read3(b []byte, want *Package, ring Keyring) error {
	a, err := open3(b, want, ring)
	if err != nil {
		return err
	}
	return a.Unpack(func(_ *tar.Header, r io.Reader) error {
		_, err := io.Copy(io.Discard, r)
		return err
	})
}

// TestEveryCutOfFormat3IsCaught cuts a package after each byte, and changes each:
// what is accepted is what was signed.
func TestEveryCutOfFormat3IsCaught(t *testing.T) {
	key, ring := newKey(t, "test.rsa.pub")
	for _, c := range []adbtest.Compression{adbtest.None, adbtest.Deflate, adbtest.Zstd} {
		want, good := package3(shapes["files"], c, key.Private)
		if err := read3(good, want, ring); err != nil {
			t.Fatal(err)
		}
		a, _ := open3(good, want, ring)
		text := list3(t, a)
		for i := range good {
			if err := read3(good[:i], want, ring); err == nil {
				t.Errorf("%s: cut after %d of %d bytes: accepted", c, i, len(good))
			}
			b := slices.Clone(good)
			b[i] ^= 0x10
			if read3(b, want, ring) != nil {
				continue
			}
			// Padding and what the compression has no use for.
			if a, err := open3(b, want, ring); err != nil || list3(t, a) != text {
				t.Errorf("%s: byte %d changed: another package is accepted", c, i)
			}
		}
	}
}

// with3 returns a package whose root was changed before it was signed, or
// replaced by a whole block of values.
func with3(key crypto.Signer, change func(root adbtest.List) any) []byte {
	parts := adbtest.Package(shapes["files"])
	values, is := change(parts.Root).([]byte)
	if !is {
		values = adbtest.Values(change(parts.Root))
	}
	return adbtest.Signed(adbtest.None, "pckg", values, []crypto.Signer{key}, parts.Data...)
}

// file3 is the second file of the first directory, etc/shadow.
func file3(root adbtest.List) adbtest.List { return dir3(root)[2].(adbtest.Array)[1].(adbtest.List) }

func dir3(root adbtest.List) adbtest.List { return root[1].(adbtest.List)[0].(adbtest.List) }

func info3(root adbtest.List) adbtest.List { return root[0].(adbtest.List) }

// TestDamagedValuesOfFormat3: a package that is signed and invalid is an error
// that says where.
func TestDamagedValuesOfFormat3(t *testing.T) {
	key, ring := newKey(t, "test.rsa.pub")
	outside := adbtest.Word(0x8fffff00)
	set := func(of func(adbtest.List) adbtest.List, number int, v any) func(adbtest.List) any {
		return func(root adbtest.List) any {
			of(root)[number-1] = v
			return root
		}
	}
	all := func(root adbtest.List) adbtest.List { return root }
	acl := func(root adbtest.List) adbtest.List { return file3(root)[1].(adbtest.List) }
	for what, c := range map[string]struct {
		change func(adbtest.List) any
		want   string
	}{
		"null root":         {func(adbtest.List) any { return nil }, "info: the record has no name or version"},
		"number for a root": {func(adbtest.List) any { return 5 }, "the root: the value 0x10000005 is not an object or an array"},
		"root outside": {func(adbtest.List) any { return adbtest.Word(0xefffff00) },
			"the root: 4 bytes at offset 268435200 are outside"},
		"root without slots":   {func(adbtest.List) any { return adbtest.Word(0xe0000000) }, "the root: the object at offset 0 has 0 slots"},
		"huge count":           {func(adbtest.List) any { return hugeRoot }, "are outside the block of values"},
		"info is a string":     {set(all, 1, "x"), "info: the value 0x80000"},
		"name outside":         {set(info3, 1, outside), "info: name: 1 bytes at offset 268435200 are outside"},
		"name is a number":     {set(info3, 1, 7), "info: name: the value 0x10000007 is not a string of bytes"},
		"name has two lines":   {set(info3, 1, "a\nb"), "info: name: a control character in \"a\\nb\""},
		"name climbs":          {set(info3, 1, "../x"), "info: invalid package name \"../x-1\""},
		"another name":         {set(info3, 1, "other"), "the package calls itself other-1"},
		"size too large":       {set(info3, 12, uint64(1)<<63), "info: installed-size: 9223372036854775808 is more than"},
		"priority too large":   {set(info3, 14, 1<<31), "info: provider-priority: 2147483648 is more than"},
		"priority is a string": {set(info3, 14, "x"), "info: provider-priority: the value"},
		"dependency is a word": {set(info3, 15, adbtest.Array{"x"}), "info: depends: entry 1: the value"},
		"dependency has no name": {set(info3, 15, adbtest.Array{adbtest.List{"a"}, adbtest.List{nil, "1"}}),
			"info: depends: entry 2: name: \"\" is not one word"},
		"dependency is two":     {set(info3, 15, adbtest.Array{adbtest.List{"a b"}}), "info: depends: entry 1: name: \"a b\" is not one word"},
		"dependency's operator": {set(info3, 15, adbtest.Array{adbtest.List{"a=b"}}), "info: depends: entry 1: name: invalid name \"a=b\""},
		"unknown operator": {set(info3, 15, adbtest.Array{adbtest.List{"a", "1", 32}}),
			"info: depends: entry 1: match: no operator has the number 32"},
		"version is no version": {set(info3, 15, adbtest.Array{adbtest.List{"a", "<1"}}),
			"info: depends: entry 1: version: invalid version \"<1\""},
		"script outside":        {set(all, 3, adbtest.List{nil, outside}), "scripts: .pre-install: 1 bytes"},
		"scripts are a string":  {set(all, 3, "x"), "scripts: the value"},
		"trigger of two words":  {set(all, 4, adbtest.Array{"/a", "/b /c"}), "triggers[2]: \"/b /c\" is not one word"},
		"replaces-priority":     {set(all, 5, "x"), "replaces-priority: the value"},
		"paths are a string":    {set(all, 2, "x"), "paths: the value"},
		"directory is a string": {set(all, 2, adbtest.List{"x"}), "paths[1]: the value"},
		"directory is absolute": {set(dir3, 1, "/etc"), "paths[1]: invalid path \"/etc\""},
		"directory climbs":      {set(dir3, 1, "etc/../../x"), "paths[1]: invalid path \"etc/../../x\""},
		"directory has no ACL":  {set(dir3, 2, nil), "paths[1]: \"etc\": acl: user: \"\" is not one word"},
		"files are a number":    {set(dir3, 3, 5), "paths[1]: \"etc\": files: the value"},
		"a circle":              {func(adbtest.List) any { return circle() }, "paths[1]: files[1]: \"d/d\": size: the value"},
		"file's name climbs":    {set(file3, 1, ".."), "paths[1]: files[2]: invalid path \"etc/..\""},
		"file's name is a path": {set(file3, 1, "a/b"), "paths[1]: files[2]: name: invalid name \"a/b\""},
		"file has no name":      {set(file3, 1, nil), "paths[1]: files[2]: invalid path \"etc/\""},
		"file has a long name":  {set(file3, 1, strings.Repeat("x", 5000)), "paths[1]: files[2]: a path of 5004 bytes"},
		"file has no ACL":       {set(file3, 2, nil), "paths[1]: files[2]: \"etc/shadow\": acl: user"},
		"mode too large":        {set(acl, 1, 0o100644), "\"etc/shadow\": acl: mode: 100644 is more than 7777"},
		"xattrs are a string":   {set(acl, 4, "x"), "\"etc/shadow\": acl: xattrs: the value"},
		"xattr without a value": {set(acl, 4, adbtest.Array{"user.x"}), "\"etc/shadow\": acl: xattrs[1]: \"user.x\" has no name"},
		"size of a file":        {set(file3, 3, uint64(1)<<63), "\"etc/shadow\": size: 9223372036854775808 is more"},
		"larger file":           {set(file3, 3, 7), "\"etc/shadow\": the block of data has 14 bytes, want 15"},
		"time is a string":      {set(file3, 4, "x"), "\"etc/shadow\": mtime: the value"},
		"no hash":               {set(file3, 5, nil), "\"etc/shadow\": hash: a digest of 0 bytes, want the 32 of a SHA-256"},
		"SHA-1":                 {set(file3, 5, strings.Repeat("x", 20)), "\"etc/shadow\": hash: a digest of 20 bytes"},
		"wrong hash":            {set(file3, 5, strings.Repeat("x", 32)), "digest mismatch: the file \"etc/shadow\" has 2bb80d53"},
		"target of one byte":    {set(file3, 6, "x"), "\"etc/shadow\": target: no kind of file"},
		"empty target":          {set(file3, 6, "\x00\xa0"), "\"etc/shadow\": target: a path of 0 bytes"},
		"a socket":              {set(file3, 6, "\x00\xc0x"), "\"etc/shadow\": target: unsupported kind of file 0140000"},
		"short device number":   {set(file3, 6, "\x00\x20\x01\x02"), "\"etc/shadow\": target: a device number of 2 bytes, want 8"},
		"hard link climbs":      {set(file3, 6, "\x00\x80../x"), "\"etc/shadow\": target: invalid path \"../x\""},
	} {
		t.Run(what, func(t *testing.T) {
			err := read3(with3(key.Private, c.change), &Package{Name: "tool", Version: "1"}, ring)
			if err == nil || !strings.Contains(err.Error(), c.want) || !strings.HasPrefix(err.Error(), "package tool-1: ") {
				t.Errorf("got %v, want %q", err, c.want)
			}
		})
	}
}

// hugeRoot is an object at offset 4, where the root stands itself: its number of
// slots is the word of the root.
const hugeRoot = adbtest.Word(0xe0000004)

// circle returns a package whose only directory is the only file in itself.
func circle() []byte {
	values := adbtest.Values(adbtest.List{adbtest.List{"tool", "1"}, adbtest.List{adbtest.List{"d", adbtest.List{0o755, "root", "root"}, 1}}})
	at := func(offset uint32) []byte { return values[offset&0xfffffff:] }
	word := func(offset uint32) uint32 { return binary.LittleEndian.Uint32(at(offset)) }
	paths := word(word(4) + 8)
	dir := word(paths + 4)
	binary.LittleEndian.PutUint32(at(dir+12), paths)
	return values
}

// blocks3 are the blocks of the package that has files, and a key that signed it.
type blocks3 struct {
	key               *Key
	ring              Keyring
	raw               []byte // the values
	values, sig, data []byte
	files             [][]byte // the parts of data
}

func newBlocks3(t *testing.T) blocks3 {
	t.Helper()
	key, ring := newKey(t, "test.rsa.pub")
	parts := adbtest.Package(shapes["files"])
	return blocks3{key, ring, parts.Values, adbtest.Block(adbtest.ValuesBlock, parts.Values), adbtest.Sign(key.Private, "pckg", parts.Values),
		slices.Concat(parts.Data...), parts.Data}
}

// plain3 returns a file of blocks that is not compressed.
func plain3(blocks ...[]byte) []byte { return adbtest.File(adbtest.None, "pckg", blocks...) }

// damaged3 is a file and what reading it says, "" for no error.
type damaged3 struct {
	b    []byte
	ring Keyring
	want string
}

func judge3(t *testing.T, table map[string]damaged3) {
	t.Helper()
	for what, c := range table {
		t.Run(what, func(t *testing.T) {
			err := read3(c.b, &Package{Name: "tool", Version: "1"}, c.ring)
			if c.want == "" && err == nil {
				return
			}
			if err == nil || c.want == "" || !strings.Contains(err.Error(), c.want) {
				t.Errorf("got %v, want %q", err, c.want)
			}
		})
	}
}

func TestSignaturesOfFormat3(t *testing.T) {
	p := newBlocks3(t)
	_, foreign := newKey(t, "other.rsa.pub")
	ec, _ := newECKey(t, "ec.pub")
	oldSign, otherDigest := slices.Clone(p.sig), slices.Clone(p.sig)
	oldSign[4], otherDigest[5] = 7, 2
	judge3(t, map[string]damaged3{
		"second signature":      {plain3(p.values, adbtest.Sign(ec, "pckg", p.raw), p.sig, p.data), p.ring, ""},
		"newer signature first": {plain3(p.values, oldSign, p.sig, p.data), p.ring, ""},
		"not signed":            {plain3(p.values, p.data), p.ring, "no valid signature by a trusted key: the file is not signed"},
		"foreign key":           {plain3(p.values, p.sig, p.data), foreign, "signed with the key of id " + keyID(&p.key.Private.PublicKey)},
		"no keys":               {plain3(p.values, p.sig, p.data), Keyring{}, "signed with the key of id"},
		"newer signature":       {plain3(p.values, oldSign, p.data), p.ring, "no signature is of a known version and digest"},
		"another digest":        {plain3(p.values, otherDigest, p.data), p.ring, "no signature is of a known version and digest"},
		"empty signature":       {plain3(p.values, adbtest.Block(1, nil), p.data), p.ring, "no signature is of a known version"},
		"signature of an index": {plain3(p.values, adbtest.Sign(p.key.Private, "indx", p.raw), p.data), p.ring,
			"the signature of \"test.rsa.pub\" does not match: the file was changed after it was signed"},
		"changed values":  {plain3(adbtest.Block(0, append(slices.Clone(p.raw), 0)), p.sig, p.data), p.ring, "does not match"},
		"cut signature":   {plain3(p.values, adbtest.Block(1, p.sig[4:100]), p.data), p.ring, "does not match"},
		"large signature": {plain3(p.values, adbtest.Block(1, make([]byte, maxSign+1))), p.ring, "signature block at offset"},
		"many signatures": {plain3(p.values, bytes.Repeat(oldSign, 65), p.sig, p.data), p.ring, "more than 64 signatures"},
	})
	err := read3(plain3(p.values, p.sig, p.data), &Package{Name: "tool", Version: "1"}, foreign)
	got := strings.Join(hint.Of(err), "\n")
	if !errors.Is(err, ErrSignature) || !strings.Contains(got, "add the public key that has this id") {
		t.Errorf("%v, hint %q", err, got)
	}
}

func TestDamagedBlocksOfFormat3(t *testing.T) {
	p := newBlocks3(t)
	long := func(kind uint32, b []byte) []byte {
		return adbtest.LongBlock(kind, b[4:binary.LittleEndian.Uint32(b)&0xffff])
	}
	badVersion := slices.Clone(p.raw)
	badVersion[0] = 1
	announced := binary.LittleEndian.AppendUint64(binary.LittleEndian.AppendUint64(nil, 3<<30), 1<<40)
	judge3(t, map[string]damaged3{
		"good":         {plain3(p.values, p.sig, p.data), p.ring, ""},
		"long headers": {plain3(long(0, p.values), long(1, p.sig), long(2, p.files[0]), p.data[len(p.files[0]):]), p.ring, ""},
		"an index": {adbtest.File(adbtest.None, "indx", p.values, p.sig, p.data), p.ring,
			"the file has the schema \"indx\", want \"pckg\""},
		"no blocks":       {plain3(), p.ring, "no block of values in the file"},
		"data first":      {plain3(p.data), p.ring, "the first block is of kind data, want values"},
		"signature first": {plain3(p.sig, p.values, p.data), p.ring, "the first block is of kind signature"},
		"values twice":    {plain3(p.values, p.sig, p.values, p.sig, p.data), p.ring, "a block of kind values behind the first"},
		"unknown kind":    {plain3(p.values, p.sig, adbtest.LongBlock(5, nil)), p.ring, "is of unknown kind 5"},
		"short block":     {plain3([]byte{3, 0, 0, 0, 0, 0, 0, 0}), p.ring, "the block at offset 8: invalid size 3"},
		"announced block": {plain3(announced), p.ring, "the values block at offset 24 has 1099511627760 bytes, more than"},
		"endless block":   {plain3(bytes.Repeat([]byte{0xff}, 32)), p.ring, "is of unknown kind"},
		"half a header":   {plain3([]byte{1, 2}), p.ring, "reading the block at offset 8: unexpected EOF"},
		"short values": {plain3(adbtest.Block(0, []byte("1234")), adbtest.Sign(p.key.Private, "pckg", []byte("1234"))), p.ring,
			"has 4 bytes, want 8"},
		"newer values": {plain3(adbtest.Block(0, badVersion), adbtest.Sign(p.key.Private, "pckg", badVersion)), p.ring,
			"needs a reader of version 1"},
		"magic alone":       {[]byte("ADB"), p.ring, "the file begins with"},
		"unknown packing":   {[]byte("ADBx1234"), p.ring, "unsupported compression: the file begins with \"ADBx\""},
		"unknown algorithm": {[]byte("ADBc\x03\x00xxxx"), p.ring, "unsupported compression: algorithm 3"},
		"packing is cut":    {[]byte("ADBc"), p.ring, "reading the compression: unexpected EOF"},
		"packed twice": {append([]byte("ADBc\x00\x00"), adbtest.File(adbtest.Deflate, "pckg", p.values)...), p.ring,
			"the unpacked file begins with \"ADBd\""},
		"more behind packed": {append(adbtest.Signed(adbtest.Deflate, "pckg", p.raw, []crypto.Signer{p.key.Private}, p.data), 'x'), p.ring,
			"there is more behind the end"},
	})
}

func TestDamagedDataOfFormat3(t *testing.T) {
	p := newBlocks3(t)
	judge3(t, map[string]damaged3{
		"data missing":     {plain3(p.values, p.sig, p.files[0]), p.ring, "\"usr/bin/su\": no block of data for its 10 bytes"},
		"all data missing": {plain3(p.values, p.sig), p.ring, "\"etc/shadow\": no block of data for its 6 bytes: unexpected EOF"},
		"data exchanged": {plain3(p.values, p.sig, p.files[0], p.files[2], p.files[1]), p.ring,
			"\"usr/bin/su\": the block of data has 14 bytes, want 18"},
		"data of another": {plain3(p.values, p.sig, adbtest.Block(2, adbtest.Data(9, 1, "secret"))), p.ring,
			"the block of data is that of paths[9].files[1]"},
		"more data": {plain3(p.values, p.sig, p.data, p.files[0]), p.ring, "a block of data that belongs to no file"},
		"changed data": {plain3(p.values, p.sig, adbtest.Block(2, adbtest.Data(1, 2, "Secret"))), p.ring,
			"digest mismatch: the file \"etc/shadow\""},
		"signature behind": {plain3(p.values, p.sig, p.data, p.sig), p.ring, "a block of kind signature behind the data"},
	})
}

// TestNothingUncheckedIsHandedOut: a reader that comes to the end of a file has
// what was signed.
func TestNothingUncheckedIsHandedOut(t *testing.T) {
	key, ring := newKey(t, "test.rsa.pub")
	parts := adbtest.Package(shapes["files"])
	b := adbtest.Signed(adbtest.None, "pckg", parts.Values, []crypto.Signer{key.Private}, adbtest.Block(2, adbtest.Data(1, 2, "Secret")))
	a, err := open3(b, &Package{Name: "tool", Version: "1"}, ring)
	if err != nil {
		t.Fatal(err)
	}
	ended := false
	if err = a.Unpack(func(h *tar.Header, r io.Reader) error {
		_, err := io.ReadAll(r)
		ended = ended || h.Name == "etc/shadow" && err == nil
		return nil
	}); err == nil || ended {
		t.Errorf("read to the end of the file: %v; %v", ended, err)
	}
}

// TestSharedValuesAreBounded: a small block whose lists are shared says 16 GB.
func TestSharedValuesAreBounded(t *testing.T) {
	key, ring := newKey(t, "test.rsa.pub")
	file := adbtest.List{"f", adbtest.List{0o644, "root", "root"}, nil, nil, nil, "\x00\xa0" + strings.Repeat("x", 4000)}
	files, dirs := make(adbtest.Array, 2000), 2000
	for i := range files {
		files[i] = file
	}
	values := adbtest.Values(adbtest.List{adbtest.List{"tool", "1"}, adbtest.List{adbtest.List{"d", adbtest.List{0o755, "root",
		"root"}, files}}})
	// In place of the list of the one directory, one that has it many times.
	root := binary.LittleEndian.Uint32(values[4:]) & 0xfffffff
	list := binary.LittleEndian.Uint32(values[root+8:]) & 0xfffffff
	dir := values[list+4 : list+8]
	at := len(values)
	values = binary.LittleEndian.AppendUint32(values, uint32(dirs+1))
	for range dirs {
		values = append(values, dir...)
	}
	binary.LittleEndian.PutUint32(values[root+8:], 0xe<<28|uint32(at))
	b := adbtest.Signed(adbtest.Deflate, "pckg", values, []crypto.Signer{key.Private})
	a, err := open3(b, &Package{Name: "tool", Version: "1"}, ring)
	if err != nil {
		t.Fatal(err)
	}
	n := 0
	err = a.Unpack(func(*tar.Header, io.Reader) error { n++; return nil })
	if !errors.Is(err, adb.ErrTooMuch) || n > 100_000 {
		t.Errorf("after %d files of %d: %v", n, dirs*len(files), err)
	}
}

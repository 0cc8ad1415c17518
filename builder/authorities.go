package builder

import (
	"archive/tar"
	"bytes"
	"crypto/sha1" // #nosec: how OpenSSL names certificates
	"crypto/x509"
	"encoding/asn1"
	"encoding/binary"
	"encoding/pem"
	"errors"
	"fmt"
	"io/fs"
	"path"
	"slices"
	"strings"
	"time"
	"unicode/utf16"

	"github.com/pikelet-os/pikelet/layers"
	"github.com/pikelet-os/pikelet/layers/apk"
)

// authoritiesDir is where update-ca-certificates takes authorities of one's
// own from, and certificatesDir where it makes links to them.
const (
	authoritiesDir  = "usr/local/share/ca-certificates"
	certificatesDir = "etc/ssl/certs"
)

// Bounds of what is read: Mozilla's bundle has 250 kB.
const (
	maxBundle    = 16 << 20
	maxAuthority = 1 << 20
)

// addAuthorities does what the trigger of ca-certificates does for the
// authorities that packages and layers brought: it adds them to the bundle, and
// makes the links by which OpenSSL finds them. Without that package, or for
// a file that is not a certificate, it returns a warning: programs would trust
// none of them.
func addAuthorities(t *layers.Tree, packages []*apk.Installed, epoch time.Time) (warnings []Warning, err error) {
	var files []*layers.Entry
	for _, e := range t.Below(authoritiesDir) {
		if e.Typeflag == tar.TypeReg {
			files = append(files, e)
		}
	}
	if len(files) == 0 {
		return nil, nil
	}
	bundle, err := t.ReadFile(bundleFile, maxBundle)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, err
	}
	if err != nil || !slices.ContainsFunc(packages, func(p *apk.Installed) bool { return p.Name == "ca-certificates" }) {
		return []Warning{warning("certificates will not be trusted, the image has no ca-certificates",
			"count", len(files), "first", "/"+files[0].Name, "from", files[0].Source, "hint", "add the package ca-certificates")}, nil
	}
	known := map[string]bool{}
	for _, c := range certificates(bundle) {
		known[string(c.Raw)] = true
	}
	text := bytes.Clone(bundle)
	for _, e := range files {
		b, err := t.ReadFile(e.Name, maxAuthority)
		if err != nil {
			return nil, err
		}
		list := certificates(b)
		if len(list) == 0 || path.Ext(e.Name) != ".crt" {
			warnings = append(warnings, warning("certificate file will not be trusted",
				"file", "/"+e.Name, "from", e.Source, "hint", "want a file *.crt with certificates in PEM"))
			continue
		}
		for _, c := range list {
			if !known[string(c.Raw)] {
				known[string(c.Raw)] = true
				text = append(bytes.TrimRight(text, "\n"), '\n')
				text = append(text, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: c.Raw})...)
			}
		}
		if err := linkAuthority(t, e.Name, list[0], epoch); err != nil {
			return nil, err
		}
	}
	if bytes.Equal(text, bundle) {
		return warnings, nil
	}
	return warnings, t.AddFile(tar.Header{Name: bundleFile, Mode: 0o644, ModTime: epoch}, builderSource, text)
}

// certificates returns the certificates of a PEM file, and skips other blocks.
func certificates(b []byte) []*x509.Certificate {
	var list []*x509.Certificate
	for {
		var block *pem.Block
		if block, b = pem.Decode(b); block == nil {
			return list
		}
		if c, err := x509.ParseCertificate(block.Bytes); err == nil && block.Type == "CERTIFICATE" {
			list = append(list, c)
		}
	}
}

// linkAuthority makes update-ca-certificates' link to a file, and the one by
// the hash of its subject to that.
func linkAuthority(t *layers.Tree, name string, c *x509.Certificate, epoch time.Time) error {
	link := func(name, to string) error {
		return t.Add(tar.Header{Typeflag: tar.TypeSymlink, Name: path.Join(certificatesDir, name), Linkname: to, Mode: 0o777, ModTime: epoch},
			builderSource, nil)
	}
	named := "ca-cert-" + strings.TrimSuffix(path.Base(name), ".crt") + ".pem"
	if err := link(named, "/"+name); err != nil {
		return err
	}
	hash, err := subjectHash(c.RawSubject)
	if err != nil {
		return fmt.Errorf("/%s: reading its subject: %w", name, err)
	}
	for n := 0; ; n++ {
		hashed := fmt.Sprintf("%08x.%d", hash, n)
		old := t.At(path.Join(certificatesDir, hashed))
		if old == nil {
			return link(hashed, named)
		}
		if old.Linkname == named {
			return nil
		}
	}
}

// attribute is a part of a name.
type attribute struct {
	Type  asn1.ObjectIdentifier
	Value asn1.RawValue
}

type attributeSET []attribute

// subjectHash is OpenSSL's X509_NAME_hash (crypto/x509/x509_cmp.c): the first
// four bytes of the SHA-1 of the name in its canonical form, without the outer
// header, from the lowest.
func subjectHash(subject []byte) (uint32, error) {
	var name []attributeSET
	if _, err := asn1.Unmarshal(subject, &name); err != nil {
		return 0, err
	}
	h := sha1.New() // #nosec: format
	for _, set := range name {
		for i := range set {
			set[i].Value = canonical(set[i].Value)
		}
		b, err := asn1.Marshal(set)
		if err != nil {
			return 0, err
		}
		h.Write(b)
	}
	return binary.LittleEndian.Uint32(h.Sum(nil)), nil
}

// canonical makes a text one of UTF-8 in lower case, with single blanks, as
// OpenSSL's asn1_string_canon does.
func canonical(v asn1.RawValue) asn1.RawValue {
	var text string
	switch v.Tag {
	case asn1.TagUTF8String, asn1.TagPrintableString, asn1.TagIA5String, 26: // VisibleString
		text = string(v.Bytes)
	case asn1.TagT61String:
		for _, c := range v.Bytes {
			text += string(rune(c))
		}
	case asn1.TagBMPString:
		var units []uint16
		for b := v.Bytes; len(b) > 1; b = b[2:] {
			units = append(units, binary.BigEndian.Uint16(b))
		}
		text = string(utf16.Decode(units))
	default:
		return v
	}
	blank := func(r rune) bool { return strings.ContainsRune(" \t\n\v\f\r", r) }
	text = strings.Join(strings.FieldsFunc(text, blank), " ")
	lower := strings.Map(func(r rune) rune {
		if r >= 'A' && r <= 'Z' {
			r += 'a' - 'A'
		}
		return r
	}, text)
	return asn1.RawValue{Tag: asn1.TagUTF8String, Bytes: []byte(lower)}
}

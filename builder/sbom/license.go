package sbom

import (
	"crypto/sha256"
	"encoding/hex"
	"regexp"
	"slices"
	"strings"

	"github.com/github/go-spdx/v2/spdxexp"
	"github.com/github/go-spdx/v2/spdxexp/spdxlicenses"
)

// license is a licence as SPDX writes it.
type license struct {
	expression string
	refs       map[string]string // the licences that SPDX does not know, by the names it has for them in this document
}

// refPrefix begins the names of licences that SPDX does not know
// (https://spdx.github.io/spdx-spec/v2.3/other-licensing-information-detected/).
const refPrefix = "LicenseRef-"

// maxLicense bounds what is read as an expression, in bytes, and so its depth. The
// longest of Alpine 3.23 has about 400.
const maxLicense = 4096

// convert returns the expression of SPDX for a licence as a package states it
// (https://spdx.github.io/spdx-spec/v2.3/SPDX-license-expressions/). Names on
// SPDX's list come as the list writes them. One that is not gets a name of its own,
// and so does all of a text that is no expression.
func convert(text string) license {
	text = strings.ToValidUTF8(strings.TrimSpace(text), "\uFFFD")
	if text == "" {
		return license{expression: nothing}
	}
	l := license{refs: map[string]string{}}
	r := &reader{tokens: tokenize(text), license: &l}
	if len(text) <= maxLicense && r.expression() && len(r.tokens) == 0 {
		l.expression = strings.Join(r.out, "")
		return l
	}
	l.refs = map[string]string{}
	l.expression = l.ref(text)
	return l
}

// refForm is what the name of a licence may consist of.
var refForm = regexp.MustCompile(`^[A-Za-z0-9.-]{1,100}$`)

// ref names a licence that SPDX does not know. What its name cannot hold is
// replaced; a digest then tells it from others that end up the same.
func (l *license) ref(text string) string {
	name := strings.TrimPrefix(text, refPrefix)
	if !refForm.MatchString(name) {
		sum := sha256.Sum256([]byte(text))
		var b strings.Builder
		for _, c := range text[:min(len(text), 60)] {
			if refForm.MatchString(string(c)) {
				b.WriteRune(c)
			} else if s := b.String(); s != "" && !strings.HasSuffix(s, "-") {
				b.WriteByte('-')
			}
		}
		name = strings.Trim(b.String(), "-") + "-" + hex.EncodeToString(sum[:4])
	}
	l.refs[refPrefix+name] = text
	return refPrefix + name
}

// tokenize splits a text at blanks and parentheses.
func tokenize(text string) []string {
	return strings.Fields(strings.NewReplacer("(", " ( ", ")", " ) ").Replace(text))
}

// reader reads an expression and writes it down again. Its methods report whether
// what they look for is there.
type reader struct {
	tokens  []string
	out     []string
	license *license
}

var operators = []string{"AND", "OR", "WITH", "(", ")"}

// expression reads terms between AND and OR.
func (r *reader) expression() bool {
	for {
		if !r.term() {
			return false
		}
		if len(r.tokens) == 0 || r.tokens[0] != "AND" && r.tokens[0] != "OR" {
			return true
		}
		r.out = append(r.out, " "+r.tokens[0]+" ")
		r.tokens = r.tokens[1:]
	}
}

// term reads a licence, or an expression in parentheses.
func (r *reader) term() bool {
	if len(r.tokens) == 0 {
		return false
	}
	if r.tokens[0] == "(" {
		r.tokens, r.out = r.tokens[1:], append(r.out, "(")
		if !r.expression() || len(r.tokens) == 0 || r.tokens[0] != ")" {
			return false
		}
		r.tokens, r.out = r.tokens[1:], append(r.out, ")")
		return true
	}
	name := r.tokens[0]
	if slices.Contains(operators, name) {
		return false
	}
	r.tokens = r.tokens[1:]
	exception := ""
	if len(r.tokens) > 0 && r.tokens[0] == "WITH" {
		if len(r.tokens) < 2 || slices.Contains(operators, r.tokens[1]) {
			return false
		}
		exception, r.tokens = r.tokens[1], r.tokens[2:]
	}
	r.out = append(r.out, r.simple(name, exception))
	return true
}

// simple returns a licence as SPDX writes it. A licence with an exception of which
// SPDX knows one alone is one that it does not know: only the list's exceptions may
// stand behind WITH.
func (r *reader) simple(name, exception string) string {
	known, ok := listed(name)
	if exception == "" {
		if ok {
			return known
		}
		return r.license.ref(name)
	}
	if with, there := find(spdxlicenses.GetExceptions(), exception); ok && there {
		return known + " WITH " + with
	}
	return r.license.ref(name + " WITH " + exception)
}

// listed returns a licence as SPDX's list has it, with a plus where one is there.
func listed(name string) (string, bool) {
	if ok, id := spdxexp.ActiveLicense(name); ok {
		return id, true
	}
	if id, ok := find(spdxlicenses.GetDeprecated(), name); ok {
		return id, true
	}
	if plain, plus := strings.CutSuffix(name, "+"); plus && !strings.HasSuffix(plain, "+") {
		id, ok := listed(plain)
		return id + "+", ok && !strings.HasSuffix(id, "+")
	}
	return "", false
}

func find(list []string, name string) (string, bool) {
	i := slices.IndexFunc(list, func(s string) bool { return strings.EqualFold(s, name) })
	if i < 0 {
		return "", false
	}
	return list[i], true
}

// Package depends describes what services of OpenRC depend on, as a build
// computed it, with all that the computation looked at: a node whose files are
// still the same need not run the scripts to know it.
package depends

import (
	"bytes"
	"encoding/json"
	"fmt"
	"regexp"
	"slices"
	"strings"
)

// File is where a root holds its Record.
const File = "/usr/lib/pikelet/depends.json"

// ScriptFile is the shell script that the first run of gendepends.sh in a boot
// reads, and empties, so that later ones look at the scripts: what Good.Script returns.
const ScriptFile = "/run/pikelet/depends.sh"

// The functions that ScriptFile may define.
const (
	// Function prints what the service of its argument depends on, or returns 1
	// where that is not known.
	Function = "_pikelet_depends"
	// AllFunction prints all that gendepends.sh would, or returns 1.
	AllFunction = "_pikelet_all_depends"
)

// Limits of a record. An image with 60 services has 40 KiB.
const (
	maxRecord = 4 << 20
	maxText   = 64 << 10
)

// Record is what a build knows.
type Record struct {
	Inputs   []Input   `json:"inputs"`   // sorted by path
	Scan     []int     `json:"scan"`     // inputs that say which services there are: indexes into Inputs
	Services []Service `json:"services"` // in the order of gendepends.sh
	// Complete says that Services are all there are.
	Complete bool `json:"complete"`
}

// Input is a file that was looked at, and how it was: see State. A path that
// ends with a slash stands for the names in that directory.
type Input struct {
	Path  string `json:"path"` // absolute
	State string `json:"state"`
	// Sets are the variables that the file gives a plain value, where it does
	// nothing else; it is a file of conf.d then.
	Sets []string `json:"sets,omitempty"`
	// Plain says that it does nothing else.
	Plain bool `json:"plain,omitempty"`
}

// Service is one service.
type Service struct {
	Name   string `json:"name"`
	Text   string `json:"text"`   // what gendepends.sh prints for it
	Inputs []int  `json:"inputs"` // indexes into Record.Inputs
	// Variables are those whose values decide what Text is.
	Variables []string `json:"variables"`
}

// safe is what a text of gendepends.sh may consist of to be quoted in a script: names of
// services, and what depend functions put between them.
var safe = regexp.MustCompile(`\A[A-Za-z0-9_.,:@%+/!*?~=\- \t\n]*\z`)

// Quotable reports whether a service with this text can be in a record.
func Quotable(s Service) bool {
	return s.Name != "" && !strings.ContainsAny(s.Name, "/ \t\n") && safe.MatchString(s.Name) &&
		len(s.Text) <= maxText && safe.MatchString(s.Text) && (s.Text == "" || strings.HasSuffix(s.Text, "\n"))
}

// Encode returns the bytes of a File.
func (r Record) Encode() ([]byte, error) {
	if err := r.check(); err != nil {
		return nil, err
	}
	var b bytes.Buffer
	enc := json.NewEncoder(&b)
	enc.SetEscapeHTML(false)
	if err := enc.Encode(r); err != nil {
		return nil, err
	}
	return b.Bytes(), nil
}

// Decode reads a File.
func Decode(b []byte) (Record, error) {
	var r Record
	if len(b) > maxRecord {
		return r, fmt.Errorf("reading %s: it has %d bytes, more than %d", File, len(b), maxRecord)
	}
	if err := json.Unmarshal(b, &r); err != nil {
		return r, fmt.Errorf("reading %s: %w", File, err)
	}
	if err := r.check(); err != nil {
		return Record{}, fmt.Errorf("reading %s: %w", File, err)
	}
	return r, nil
}

func (r Record) check() error {
	there := func(list []int) bool {
		return !slices.ContainsFunc(list, func(i int) bool { return i < 0 || i >= len(r.Inputs) })
	}
	for i, s := range r.Services {
		if !Quotable(s) || !there(s.Inputs) {
			return fmt.Errorf("invalid service %d, %q", i, s.Name)
		}
	}
	if !there(r.Scan) {
		return fmt.Errorf("invalid list of inputs: there are %d", len(r.Inputs))
	}
	return nil
}

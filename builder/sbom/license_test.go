package sbom

import (
	"strings"
	"testing"

	"github.com/github/go-spdx/v2/spdxexp"
)

// TestConvert: what packages state becomes an expression of SPDX that says the same,
// and names that SPDX does not know are told apart.
func TestConvert(t *testing.T) {
	for text, want := range map[string]string{
		"":                                "NOASSERTION",
		"  ":                              "NOASSERTION",
		"MIT":                             "MIT",
		"mit":                             "MIT",
		"GPL-2.0-only AND MIT":            "GPL-2.0-only AND MIT",
		"BSD-2-Clause AND ( ISC OR MIT )": "BSD-2-Clause AND (ISC OR MIT)",
		"(LGPL-2.1-or-later)":             "(LGPL-2.1-or-later)",
		"GPL-2.0":                         "GPL-2.0",
		"GPL-2.0+":                        "GPL-2.0+",
		"Apache-2.0+":                     "Apache-2.0+",
		"Apache-2.0++":                    "LicenseRef-Apache-2.0-41299ff3",
		"GPL-2.0-or-later WITH GCC-exception-3.1": "GPL-2.0-or-later WITH GCC-exception-3.1",
		"gpl-2.0-or-later WITH gcc-exception-3.1": "GPL-2.0-or-later WITH GCC-exception-3.1",
		"GPL-2.0-only WITH Own-exception":         "LicenseRef-GPL-2.0-only-WITH-Own-exception-4cf22708",
		"Own WITH GCC-exception-3.1":              "LicenseRef-Own-WITH-GCC-exception-3.1-524b9905",
		"custom":                                  "LicenseRef-custom",
		"MIT AND custom":                          "MIT AND LicenseRef-custom",
		"Public-Domain OR MIT":                    "LicenseRef-Public-Domain OR MIT",
		"LicenseRef-own":                          "LicenseRef-own",
		"MIT BSD":                                 "LicenseRef-MIT-BSD-81411fa5",
		"MIT and BSD-3-Clause":                    "LicenseRef-MIT-and-BSD-3-Clause-3922e6dc",
		"MIT, ISC":                                "LicenseRef-MIT-ISC-9b8219f0",
		"MIT AND":                                 "LicenseRef-MIT-AND-f743c54c",
		"(MIT":                                    "LicenseRef-MIT-81cb5ffc",
		"MIT)":                                    "LicenseRef-MIT-59c2feef",
		"see Debian's package":                    "LicenseRef-see-Debian-s-package-df5c1252",
		"custom:foo":                              "LicenseRef-custom-foo-6c94038a",
		"DocumentRef-a:LicenseRef-b":              "LicenseRef-DocumentRef-a-LicenseRef-b-a63f0cd2",
	} {
		l := convert(text)
		if l.expression != want {
			t.Errorf("%q: got %q, want %q", text, l.expression, want)
		}
		for ref, says := range l.refs {
			if !strings.Contains(text, says) {
				t.Errorf("%q: %s stands for %q", text, ref, says)
			}
		}
	}
	// What is too long to be read, or too deep, is taken as a whole.
	for _, text := range []string{strings.Repeat("(", maxLicense), strings.Repeat("MIT AND ", maxLicense) + "MIT"} {
		if l := convert(text); !strings.HasPrefix(l.expression, refPrefix) || len(l.expression) > 100 || len(l.refs) != 1 {
			t.Errorf("a text of %d bytes: %q", len(text), l.expression)
		}
	}
}

// FuzzConvert: whatever a package states, the result is an expression that others
// accept, and every name that SPDX does not know is explained.
func FuzzConvert(f *testing.F) {
	for _, s := range []string{"MIT", "MIT AND (ISC OR custom)", "GPL-2.0-only WITH x", "MIT+", "a WITH b WITH c", "((", "LicenseRef-a:b",
		"\xff", "é"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, text string) {
		l := convert(text)
		if l.expression == nothing || strings.Count(text, "OR")+strings.Count(text, "AND") > 4 {
			// The judge takes time that doubles with each of them.
			return
		}
		if ok, bad := spdxexp.ValidateLicenses([]string{l.expression}); !ok {
			t.Errorf("%q: the expression %q is invalid: %q", text, l.expression, bad)
		}
		for _, word := range strings.FieldsFunc(l.expression, func(r rune) bool { return r == ' ' || r == '(' || r == ')' }) {
			if strings.HasPrefix(word, refPrefix) && l.refs[word] == "" {
				t.Errorf("%q: %s is not explained", text, word)
			}
		}
		for ref := range l.refs {
			if !strings.Contains(l.expression, ref) {
				t.Errorf("%q: %s is explained, and is not there", text, ref)
			}
		}
	})
}

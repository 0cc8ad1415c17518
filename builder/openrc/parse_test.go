package openrc

import (
	"fmt"
	"slices"
	"strings"
	"testing"
)

func TestParse(t *testing.T) {
	const text = "a\na ineed b  c a x.sh\na iprovide v w\na ineed !b d\na iuse e\na keyword -jail \nb\n\nc ineed\nb ineed a\n z\n"
	got, err := Parse([]byte(text))
	want := "[{a [c d] [v w]} {b [a] []} {c [] []}]"
	if s := fmt.Sprint(got); err != nil || s != want {
		t.Errorf("got %s, %v, want %s", s, err, want)
	}
	if _, err := Parse([]byte(strings.Repeat("a ineed b\n", maxWords))); err == nil {
		t.Error("any number of words is read")
	}
	var many strings.Builder
	for i := range maxServices + 1 {
		fmt.Fprintf(&many, "s%d\n", i)
	}
	if _, err := Parse([]byte(many.String())); err == nil {
		t.Error("any number of services is read")
	}
}

// FuzzParse: services have a name each, and whatever they need can be checked.
func FuzzParse(f *testing.F) {
	f.Add([]byte("a\na ineed b !c\nb iprovide d\n"))
	f.Add([]byte("a ineed b\nb ineed a\nc ineed d\ne iprovide d\ne ineed f\n"))
	f.Add([]byte("swclock ibefore * \n\n \n! ineed !\n"))
	f.Fuzz(func(t *testing.T, text []byte) {
		list, err := Parse(text)
		if err != nil {
			return
		}
		var names []string
		for _, s := range list {
			if s.Name == "" || slices.Contains(names, s.Name) || slices.Contains(s.Needs, s.Name) || slices.Contains(s.Needs, "") {
				t.Errorf("%+v", s)
			}
			names = append(names, s.Name)
		}
		if len(list) > 100 {
			return
		}
		if err := check(list, map[string][]string{"default": names}, func(string) bool { return true }); err != nil && err.Error() == "" {
			t.Error("an error without words")
		}
	})
}

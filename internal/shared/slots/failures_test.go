package slots

import (
	"strings"
	"testing"
)

func TestFailures(t *testing.T) {
	text := AddFailure("", A, "no root:\n  digest mismatch")
	text = AddFailure(text, B, "no card")
	text = AddFailure(text, A, "again")
	if want := "slot a: again\nslot b: no card"; text != want {
		t.Errorf("the record says %q, want %q", text, want)
	}
	for l, want := range map[Letter]string{A: "again", B: "no card"} {
		if got, failed := Failure(text, l); !failed || got != want {
			t.Errorf("slot %s failed: %t, %q, want %q", l, failed, got, want)
		}
	}
	if got, failed := Failure("slot b: why", A); failed || got != "" {
		t.Errorf("a slot that the record does not name failed: %q", got)
	}
}

func FuzzFailures(f *testing.F) {
	f.Add("slot b: no card\n", "digest mismatch")
	f.Add("", "")
	f.Add("slot a:\nslot a: x", "\n a\x00b\n")
	f.Fuzz(func(t *testing.T, text, reason string) {
		b, failedB := Failure(text, B)
		added := AddFailure(text, A, reason)
		if got, failed := Failure(added, A); !failed || got != strings.Join(strings.Fields(reason), " ") {
			t.Errorf("%q: slot a failed: %t, %q, want %q", added, failed, got, reason)
		}
		if got, failed := Failure(added, B); failed != failedB || got != b {
			t.Errorf("%q: slot b failed: %t, %q; before %t, %q", added, failed, got, failedB, b)
		}
		if again := AddFailure(added, A, reason); again != added {
			t.Errorf("added twice the record says %q, want %q", again, added)
		}
	})
}

package hint

import (
	"errors"
	"fmt"
	"io/fs"
	"slices"
	"testing"
)

func TestOf(t *testing.T) {
	inner := With(fs.ErrNotExist, "create the file")
	joined := errors.Join(inner, With(errors.New("other"), "create the file"), With(errors.New("third"), "ask again"))
	err := Withf(fmt.Errorf("reading %q: %w", "a.yaml", joined), "see %s", "the manual")
	if got, want := Of(err), []string{"see the manual", "create the file", "ask again"}; !slices.Equal(got, want) {
		t.Errorf("Of(%v) = %q, want %q", err, got, want)
	}
	if !errors.Is(err, fs.ErrNotExist) {
		t.Error("a hint hides the error it is about")
	}
	if got, want := inner.Error(), fs.ErrNotExist.Error(); got != want {
		t.Errorf("the message became %q, want %q", got, want)
	}
	if With(nil, "x") != nil || Of(nil) != nil || Of(fs.ErrExist) != nil {
		t.Error("advice where there is none")
	}
}

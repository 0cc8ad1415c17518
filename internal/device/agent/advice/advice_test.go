package advice

import (
	"errors"
	"fmt"
	"testing"

	"github.com/pikelet-os/pikelet/internal/shared/hint"
)

func TestText(t *testing.T) {
	plain := errors.New("no filesystem on /dev/vdb")
	for _, c := range []struct {
		err  error
		want string
	}{
		{plain, "no filesystem on /dev/vdb"},
		{fmt.Errorf("opening: %w", hint.With(plain, "format it")), "opening: no filesystem on /dev/vdb; format it"},
	} {
		if got := Text(c.err); got != c.want {
			t.Errorf("got %q, want %q", got, c.want)
		}
	}
}

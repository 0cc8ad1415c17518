package prepare

import (
	"errors"
	"testing"

	"github.com/pikelet-os/pikelet/internal/shared/slots"
)

// TestMustFormat: a filesystem is made on a card that was just flashed, and where
// making one was cut off; never where one was made, whatever is there now.
func TestMustFormat(t *testing.T) {
	broken := errors.New("input/output error")
	made, making := slots.Card{State: slots.StateMade}, slots.Card{State: slots.StateMaking}
	for _, c := range []struct {
		what   string
		blank  bool
		record slots.Card
		lost   error
		format bool
		fails  bool
	}{
		{"just flashed", true, slots.Card{}, nil, true, false},
		{"just flashed, and tried an upgrade", true, slots.Card{Update: &slots.Update{}}, nil, true, false},
		{"flashed with the state kept", false, slots.Card{}, nil, false, false},
		{"in use", false, made, nil, false, false},
		{"an erase block was lost", true, made, nil, false, true},
		{"the record was lost", false, slots.Card{}, broken, false, false},
		{"both were lost", true, slots.Card{}, broken, false, true},
		{"making it was cut off", false, making, nil, true, false},
		{"making it was cut off at once", true, making, nil, true, false},
	} {
		format, err := mustFormat(c.blank, c.record, c.lost)
		if format != c.format || (err != nil) != c.fails {
			t.Errorf("%s: %v, %v", c.what, format, err)
		}
	}
}

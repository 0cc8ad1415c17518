package updater

import (
	"errors"
	"testing"

	"github.com/pikelet-os/pikelet/boards"
	"github.com/pikelet-os/pikelet/internal/shared/hint"
	"github.com/pikelet-os/pikelet/internal/shared/image"
	"github.com/pikelet-os/pikelet/internal/shared/node"
	"github.com/pikelet-os/pikelet/internal/shared/slots"
)

// TestPolicy: each refusal is the error that its documentation names. TestAccept
// has the statements that allow downgrades.
func TestPolicy(t *testing.T) {
	b := Boot{Slot: slots.A, Kind: slots.Committed, Digest: "sha256:now", Stream: "lab", Release: "1.2", Arch: "arm64", Board: "rpi4"}
	on := func(change func(*Boot)) Boot {
		changed := b
		change(&changed)
		return changed
	}
	c := func(change func(*image.Manifest)) Candidate {
		m := &image.Manifest{Stream: "lab", Release: "1.3", Arch: "arm64", Boards: []string{"rpi4"}}
		change(m)
		return Candidate{Manifest: m, Digest: "sha256:next"}
	}
	good := c(func(*image.Manifest) {})
	same := good
	same.Digest = b.Digest
	failedHere := &slots.Update{Step: slots.Left, Bad: true, Digest: "sha256:next", Release: "1.3", Reason: "fan"}
	cut := &slots.Update{Step: slots.Left, Digest: "sha256:next"}
	firmware := func(board string, f boards.Firmware) error {
		_, err := FirmwareCanTry(board, f)
		return err
	}
	for name, c := range map[string]struct {
		got, want error
	}{
		"nothing against starting":        {mayStart(b, nil, "sha256:next", false), nil},
		"no card":                         {mayStart(on(func(b *Boot) { b.Slot = slots.Net }), nil, "", true), ErrNoCard},
		"in a trial":                      {mayStart(on(func(b *Boot) { b.Kind = slots.Trial }), nil, "", true), ErrInTrial},
		"armed":                           {mayStart(b, &slots.Update{Step: slots.Armed}, "", true), ErrUnderWay},
		"being tried":                     {mayStart(b, &slots.Update{Step: slots.Tried}, "", true), ErrUnderWay},
		"committed before":                {mayStart(b, &slots.Update{Step: slots.Finished, Digest: "sha256:next"}, "sha256:next", false), nil},
		"failed here":                     {mayStart(b, failedHere, "sha256:next", false), ErrFailedHere},
		"failed here, once more":          {mayStart(b, failedHere, "sha256:next", true), nil},
		"another one failed here":         {mayStart(b, failedHere, "sha256:other", false), nil},
		"interrupted here":                {mayStart(b, cut, "sha256:next", false), nil},
		"acceptable":                      {b.Accept(good, Order{}), nil},
		"it runs":                         {b.Accept(same, Order{}), ErrRuns},
		"it runs, and the slot is wanted": {b.Accept(same, Order{Return: true}), nil},
		"another stream":                  {b.Accept(c(func(m *image.Manifest) { m.Stream = "cabin" }), Order{}), ErrStream},
		"another architecture":            {b.Accept(c(func(m *image.Manifest) { m.Arch = "riscv64" }), Order{}), ErrMachine},
		"another board":                   {b.Accept(c(func(m *image.Manifest) { m.Boards = []string{"rpi5"} }), Order{}), ErrMachine},
		"an unknown board":                {on(func(b *Boot) { b.Board = "" }).Accept(good, Order{}), nil},
		"older":                           {b.Accept(c(func(m *image.Manifest) { m.Release = "1.1" }), Order{}), ErrOlder},
		"older in a channel":              {b.Accept(c(func(m *image.Manifest) { m.Release = "1.1" }), Order{Channel: "stable"}), ErrOlder},
		"older, and the slot is wanted":   {b.Accept(c(func(m *image.Manifest) { m.Release = "1.1" }), Order{Return: true}), nil},
		"the slot holds it":               {holds(good, "sha256:next"), nil},
		"any image will do":               {holds(good, ""), nil},
		"the slot holds another image":    {holds(good, "sha256:other"), ErrOtherImage},
		"healthy":                         {healthy([]node.Check{{Name: "fan", OK: true}}), nil},
		"unhealthy":                       {healthy([]node.Check{{Name: "fan"}}), ErrUnhealthy},
		"unhealthy from outside":          {healthy([]node.Check{{Name: "nas", Outside: true}}), ErrUnhealthy},
		"an EEPROM that is too old":       {firmware("rpi4", boards.Firmware{Built: 1}), ErrFirmware},
		"an EEPROM of unknown age":        {firmware("rpi4", boards.Firmware{}), nil},
		"the firmware of no known board":  {firmware("", boards.Firmware{}), nil},
	} {
		if !errors.Is(c.got, c.want) || c.want == nil && c.got != nil {
			t.Errorf("%s: %v, want %v", name, c.got, c.want)
		}
	}
	if got := hint.Of(b.Accept(c(func(m *image.Manifest) { m.Release = "1.1" }), Order{})); len(got) != 1 {
		t.Errorf("the advice about a downgrade is %q, want one", got)
	}
}

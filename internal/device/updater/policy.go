package updater

import (
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/pikelet-os/pikelet/boards"
	"github.com/pikelet-os/pikelet/internal/shared/hint"
	"github.com/pikelet-os/pikelet/internal/shared/image"
	"github.com/pikelet-os/pikelet/internal/shared/node"
	"github.com/pikelet-os/pikelet/internal/shared/skew"
	"github.com/pikelet-os/pikelet/internal/shared/slots"
)

// Why an upgrade is refused. All refusals are decided in this file, by functions
// of values; whoever calls them reads the card, runs the checks and asks the
// firmware. Chains of signatures that do not hold are refused before there is a
// Candidate to decide about (image.Verify).
var (
	ErrRuns       = errors.New("the release runs on this node already")
	ErrNoCard     = errors.New("this node has no card")
	ErrInTrial    = errors.New("this boot is a trial")
	ErrUnderWay   = errors.New("another release is being tried")
	ErrFailedHere = errors.New("the release failed on this node before")
	ErrUnhealthy  = errors.New("this node is not well")
	ErrFirmware   = errors.New("the firmware of this node does not start trials")
	ErrOtherImage = errors.New("the slot holds another image")
	ErrStream     = errors.New("the release is of another stream")
	ErrMachine    = errors.New("the release is for other machines")
	ErrOlder      = errors.New("the release is older than the one that runs")
	ErrSkew       = errors.New("the Kubernetes of the release does not go with the cluster's")
)

// refusal is one of the errors above with the details of the case at hand.
type refusal struct {
	kind error
	text string
}

func (r refusal) Error() string { return r.text }
func (r refusal) Unwrap() error { return r.kind }

func refuse(kind error, format string, args ...any) error {
	return refusal{kind, fmt.Sprintf(format, args...)}
}

// mayStart reports why the node that runs b cannot start an upgrade now, or not
// one to the image with a digest: ErrNoCard, ErrInTrial, ErrUnderWay or
// ErrFailedHere. record is what the card says of the last upgrade; nil for
// nothing. With again a release that failed here may be tried once more.
func mayStart(b Boot, record *slots.Update, digest string, again bool) error {
	switch {
	case b.Slot == slots.Net:
		return hint.With(ErrNoCard, "start it with another image: its boot server decides which it runs")
	case b.Kind == slots.Trial:
		return hint.With(ErrInTrial, "wait until it is committed or left")
	case record == nil:
		return nil
	case record.UnderWay():
		return refuse(ErrUnderWay, "release %s is being tried", record.Release)
	case record.Step == slots.Left && record.Bad && record.Digest == digest && !again:
		return refuse(ErrFailedHere, "release %s failed on this node before: %s", record.Release, record.Reason)
	}
	return nil
}

// Accept reports why an image is not one for the node that runs b: it is the one
// that runs (ErrRuns), of another stream (ErrStream), for another architecture or
// board (ErrMachine), or of a lower release without a statement that lets nodes of
// the order's channel go back to it (ErrOlder).
func (b Boot) Accept(c Candidate, o Order) error {
	switch {
	case c.Digest == b.Digest && !o.Return:
		return ErrRuns
	case c.Stream != b.Stream:
		return refuse(ErrStream, "release %s is of stream %q, and this node runs %q", c.Release, c.Stream, b.Stream)
	case c.Arch != b.Arch:
		return refuse(ErrMachine, "release %s is for %s, and this machine is %s", c.Release, c.Arch, b.Arch)
	case b.Board != "" && !slices.Contains(c.Boards, b.Board):
		return refuse(ErrMachine, "release %s is for %s, and this is a %s", c.Release, strings.Join(c.Boards, ", "), b.Board)
	case o.Return || image.CompareReleases(c.Release, b.Release) >= 0:
		return nil
	case image.AllowsDowngrade(c.Digest, c.Signatures, b.Keys, o.Channel, b.Release):
		return nil
	case o.Channel == "":
		return hint.With(
			refuse(ErrOlder, "release %s is older than %s, which runs here, and no channel was asked for whose statement could allow it",
				c.Release, b.Release),
			"promote it to a channel with a statement that allows the downgrade, and upgrade to that channel")
	}
	return hint.With(
		refuse(ErrOlder, "release %s is older than %s, which runs here, and no trusted key allows nodes of channel %s to go back to it",
			c.Release, b.Release, o.Channel),
		"promote it to the channel with a statement that allows the downgrade")
}

// MayRun reports ErrSkew, and one of skew's errors, where the Kubernetes that a
// release brings does not go with what its cluster runs, or where that is not
// known: err is why. kubernetes is "" where the release brings none, and cluster
// nil for a node without a part in one.
func MayRun(release, kubernetes string, cluster *skew.Cluster, err error) error {
	if kubernetes == "" || err == nil && cluster == nil {
		return nil
	}
	to, verr := skew.Parse(kubernetes)
	if verr != nil {
		return fmt.Errorf("%w: %w", ErrSkew, verr)
	}
	if err != nil {
		return hint.With(refuse(ErrSkew, "release %s brings Kubernetes %s, and which one the cluster runs is not known: %v", release, to, err),
			"try again when the API server answers this node")
	}
	if err = skew.Check(to, *cluster); err == nil {
		return nil
	}
	advice := "bring the node that is named to a version that goes with this one first"
	switch {
	case errors.Is(err, skew.ErrStep):
		advice = "go to a release with the minor version between first"
	case !cluster.Server:
		advice = "upgrade the servers of the cluster first"
	}
	return hint.With(fmt.Errorf("%w: release %s brings Kubernetes %s: %w", ErrSkew, release, to, err), advice)
}

// holds reports ErrOtherImage where a slot holds another image than the one with
// a digest; "" takes any.
func holds(c Candidate, digest string) error {
	if digest != "" && c.Digest != digest {
		return refuse(ErrOtherImage, "the slot holds image %s, not %s", c.Digest, digest)
	}
	return nil
}

// healthy reports ErrUnhealthy where a check fails on the release that runs: what
// fails here would fail in a trial too, and be held against the new release.
func healthy(checks []node.Check) error {
	if failed := FailedChecks(checks); failed != "" {
		return refuse(ErrUnhealthy, "this node is not well, and would not be with another release: %s", failed)
	}
	return nil
}

// FirmwareCanTry reports ErrFirmware where the firmware of a board does not start
// trials. warning says what is not known of it, or could be better; "" for nothing.
// board is "" where it is not known.
func FirmwareCanTry(board string, f boards.Firmware) (warning string, err error) {
	b, err := boards.Find(board)
	if err != nil {
		return "the board is not known, nor whether its firmware starts trials", nil
	}
	problem, warning := b.CanTry(f)
	if problem != "" {
		return warning, refuse(ErrFirmware, "%s", problem)
	}
	return warning, nil
}

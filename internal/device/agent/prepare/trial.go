package prepare

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"time"

	"github.com/pikelet-os/pikelet/internal/device/agent/runfiles"
	"github.com/pikelet-os/pikelet/internal/device/agent/statefile"
	"github.com/pikelet-os/pikelet/internal/shared/hint"
	"github.com/pikelet-os/pikelet/internal/shared/node"
	"github.com/pikelet-os/pikelet/internal/shared/nodeconfig"
	"github.com/pikelet-os/pikelet/internal/shared/slots"
)

// A config that is tried has one boot. The record of it is beside the config that is
// good, and only a confirmation puts it in that one's place: whatever ends the boot
// before, the time, a power cut, a panic or the watchdog, the next one goes by the good
// config. Each step is one file replaced as a whole.

// Why a config that was tried was left.
const (
	endedEarly   = "the node restarted before the config was confirmed"
	cardOverrode = "a config on the card came before it"
	sentOverrode = "another config was sent after it"
)

// readTrial returns the record of a config that is tried; one without a step where
// there is none.
func (p configs) readTrial() (node.ConfigTrial, error) {
	b, err := os.ReadFile(p.trial)
	if errors.Is(err, fs.ErrNotExist) {
		return node.ConfigTrial{}, nil
	}
	if err != nil {
		return node.ConfigTrial{}, err
	}
	return node.DecodeConfigTrial(b)
}

func (p configs) writeTrial(t node.ConfigTrial) error {
	b, err := t.Encode()
	if err != nil {
		return err
	}
	return statefile.Write(p.trial, b)
}

// leaveTrial notes why a config that was tried counts no more. Its secrets go.
func (p configs) leaveTrial(t node.ConfigTrial, reason string) error {
	t.Step, t.Reason, t.Config = node.TrialLeft, reason, ""
	return p.writeTrial(t)
}

// tried returns the config that this boot tries, or nil. The record says that its one
// boot has begun before the config counts. The error says why a config that was tried
// was left.
func (p configs) tried(inventory *nodeconfig.Document, m nodeconfig.Machine) (*nodeconfig.Config, node.ConfigTrial, error) {
	t, err := p.readTrial()
	if err != nil {
		return nil, t, err
	}
	switch t.Step {
	case node.TrialSent:
		cfg, err := over(inventory, m, slots.NodeFile, []byte(t.Config))
		if err != nil { // for the image that the node runs by now
			return nil, t, errors.Join(err, p.leaveTrial(t, err.Error()))
		}
		t.Step = node.TrialBegun
		if err := p.writeTrial(t); err != nil {
			return nil, t, fmt.Errorf("a config cannot be tried: %w", err)
		}
		return cfg, t, nil
	case node.TrialBegun:
		if kept, err := os.ReadFile(p.kept); err == nil && node.ConfigDigest(string(kept)) == t.Digest {
			return nil, t, statefile.Remove(p.trial) // it was confirmed, and the power went before the record did
		}
		t.Reason = endedEarly
		err = p.leaveTrial(t, t.Reason)
	case node.TrialLeft:
	default:
		return nil, t, nil
	}
	return nil, t, errors.Join(fmt.Errorf("the one that was tried was left: %s", t.Reason), err)
}

// overridden notes that a config which a person put onto the card, or sent without a
// trial, counts instead of one that waits for its boot, and that what became of an
// earlier one is of no interest any more.
func (p configs) overridden(reason string) error {
	t, err := p.readTrial()
	switch {
	case err == nil && t.Step == "":
		return nil
	case err == nil && t.Step == node.TrialSent:
		return p.leaveTrial(t, reason)
	}
	return statefile.Remove(p.trial)
}

// lockForSent keeps others from the configs until unlock is called. The error is
// errTrialGoesOn where the node tries a config: it takes no other one meanwhile.
func (p configs) lockForSent() (unlock func(), err error) {
	if unlock, err = runfiles.Lock(p.lock); err != nil {
		return nil, err
	}
	if t, err := p.readTrial(); err == nil && t.Step == node.TrialBegun {
		unlock()
		return nil, errTrialGoesOn
	}
	return unlock, nil
}

// trySent takes a config that was sent over SSH to be tried on the next boot.
func (p configs) trySent(in io.Reader, m nodeconfig.Machine, state node.StateStatus, wait time.Duration) error {
	if wait < node.MinConfigTrial || wait > node.MaxConfigTrial {
		return fmt.Errorf("a trial of %v: want %v to %v", wait, node.MinConfigTrial, node.MaxConfigTrial)
	}
	text, err := p.readSent(in, m, state)
	if err != nil {
		return err
	}
	unlock, err := p.lockForSent()
	if err != nil {
		return err
	}
	defer unlock()
	return p.writeTrial(node.ConfigTrial{
		Step: node.TrialSent, Digest: node.ConfigDigest(string(text)), Seconds: int(wait / time.Second), Config: string(text),
	})
}

var errTrialGoesOn = hint.With(errors.New("the node is trying a config already"),
	"pikeletd config confirm keeps that one, and pikeletd reboot goes back to the one before")

// confirm keeps the config with a digest that this boot tries, or whichever it tries
// where the digest is "". One that is kept
// already is no error: whoever confirms may not have heard that it was done.
func (p configs) confirm(digest string) error {
	unlock, err := runfiles.Lock(p.lock)
	if err != nil {
		return err
	}
	defer unlock()
	t, err := p.readTrial()
	if err != nil {
		return err
	}
	if t.Step != node.TrialBegun {
		if kept, err := os.ReadFile(p.kept); err == nil && t.Step == "" && node.ConfigDigest(string(kept)) == digest {
			return nil
		}
		if t.Step == node.TrialLeft && t.Digest == digest {
			return fmt.Errorf("the config was left: %s", t.Reason)
		}
		return errors.New("the node tries no config")
	}
	if digest != "" && t.Digest != digest {
		return fmt.Errorf("the node tries the config with digest %s, not %s", t.Digest, digest)
	}
	if err := statefile.Write(p.kept, []byte(t.Config)); err != nil {
		return err
	}
	return statefile.Remove(p.trial)
}

// expire leaves the config that this boot tries, unless it was confirmed meanwhile,
// and reports whether the node is to restart. Where the record cannot be written the
// next boot leaves the config all the same.
func (p configs) expire(digest string) (restart bool, err error) {
	unlock, err := runfiles.Lock(p.lock)
	if err != nil {
		return true, err
	}
	defer unlock()
	t, err := p.readTrial()
	if err != nil {
		return true, err
	}
	if t.Step != node.TrialBegun || t.Digest != digest {
		return false, nil
	}
	return true, p.leaveTrial(t, fmt.Sprintf("it was not confirmed within %v", t.Time()))
}

// report returns which config the node keeps, with digests by key in the place of
// secrets.
func (p configs) report(prepared node.Prepared, key []byte) (node.ConfigReport, error) {
	r := node.ConfigReport{Source: prepared.Config.Source, Fixed: prepared.State.Memory, HostKey: prepared.HostKey}
	t, err := p.readTrial()
	if err != nil {
		return r, err
	}
	kept, err := os.ReadFile(p.kept)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return r, err
	}
	counts := kept
	switch {
	case r.Source == node.FromServer:
		if counts, err = os.ReadFile(p.served); err != nil {
			return r, err
		}
	case t.Step == node.TrialBegun:
		counts = []byte(t.Config)
	case len(kept) > 0:
		r.Pending = node.ConfigDigest(string(kept)) != prepared.Config.Digest
	}
	if t.Step != "" {
		t.Config = ""
		r.Trial = &t
	}
	if nodeconfig.Blank(counts) {
		return r, nil
	}
	cfg, err := nodeconfig.Over(nil, nodeconfig.Machine{}, p.kept, counts, true)
	if err != nil {
		return r, err
	}
	r.Config, err = cfg.Compared(key)
	return r, err
}

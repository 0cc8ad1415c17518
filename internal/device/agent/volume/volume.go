// Package volume opens and closes the volume, where k3s and pods keep their data.
// It is the service pikelet-volume, and the part of the daemon that tries again.
package volume

import (
	"fmt"
	"io"
	"log/slog"
	"time"

	"github.com/pikelet-os/pikelet/internal/device/agent/advice"
	"github.com/pikelet-os/pikelet/internal/device/agent/iscsi"
	"github.com/pikelet-os/pikelet/internal/device/agent/runfiles"
	"github.com/pikelet-os/pikelet/internal/shared/node"
	"github.com/pikelet-os/pikelet/internal/shared/nodeconfig"
)

// Retry tries again what the volume service could not do; where all is
// done, it sees to the sessions' records.
func Retry(log *slog.Logger) error {
	v, err := runfiles.Volume()
	if err != nil || v.Waiting == stopped {
		return err
	}
	if v.Mounted && len(v.Sessions) == 0 {
		cfg, err := runfiles.Config()
		if err != nil {
			return err
		}
		return iscsi.KeepRecords(cfg)
	}
	_, err = try(log, nil)
	return err
}

// How long the start of the system waits for a volume, and how often it is
// tried. Then it goes on, and the daemon goes on trying: while a NAS is down, one
// can still log in and see why k3s does not run.
const (
	startTime  = 30 * time.Second
	retryEvery = 3 * time.Second
)

// Start is the start of the volume service.
func Start(out io.Writer, log *slog.Logger) error {
	for start := time.Now(); ; time.Sleep(retryEvery) {
		v, err := try(log, nil)
		if err != nil {
			return err
		}
		if v.Mounted && len(v.Sessions) == 0 {
			return nil
		}
		if time.Since(start) > startTime || v.Refused && len(v.Sessions) == 0 {
			for _, s := range v.Sessions {
				fmt.Fprintf(out, "pikelet: iSCSI: %s\n", s)
			}
			if !v.Mounted {
				fmt.Fprintf(out, "pikelet: THE VOLUME IS MISSING: %s\n", v.Waiting)
				fmt.Fprintln(out, "pikelet: k3s waits for it; trying again in the background")
			}
			return nil
		}
	}
}

// try logs in to what the node is not logged in to yet and opens the
// volume, once, and notes how it went. Service and daemon take turns. typed is a
// passphrase that was typed for this, or nil.
func try(log *slog.Logger, typed *passphrase) (node.VolumeStatus, error) {
	unlock, err := runfiles.Lock("/run/pikelet/volume.lock")
	if err != nil {
		return node.VolumeStatus{}, err
	}
	defer unlock()
	cfg, err := runfiles.Config()
	if err != nil {
		return node.VolumeStatus{}, err
	}
	v, err := runfiles.Volume()
	if err != nil {
		return v, err
	}
	v.On, v.Sessions = cfg.Volume.Place(), nil
	initiator, volumeTarget := iscsi.Open(), ""
	if t, err := cfg.VolumeTarget(); err == nil && v.On == nodeconfig.OnISCSI {
		volumeTarget = t.Name
	}
	for _, t := range cfg.ISCSI.Targets {
		if err := initiator.Login(t); err != nil {
			v.Sessions = append(v.Sessions, advice.Text(err))
			if t.Name == volumeTarget {
				v.Waiting = advice.Text(err)
			}
		} else if t.Name == volumeTarget {
			v.Waiting = ""
		}
	}
	for _, d := range cfg.ISCSI.Discovery {
		if err := initiator.Discover(d); err != nil {
			v.Sessions = append(v.Sessions, advice.Text(err))
		}
	}
	if err := iscsi.LinkDisks(); err != nil {
		v.Sessions = append(v.Sessions, advice.Text(err))
	}
	if !v.Mounted && (v.Waiting == "" || v.On == nodeconfig.OnDisk) {
		v.Waiting, v.Refused = "", false
		if err := open(cfg, &v, typed); err != nil {
			v.Waiting = advice.Text(err)
		} else {
			v.Mounted = true
			if err := placeWaiting(WaitingFile, node.VolumeDir); err != nil {
				log.Error("placing files on the volume", "err", err)
			}
		}
	}
	if v.Mounted {
		if err := iscsi.Claim(iscsi.ClaimDir, iscsi.LUNs(), targetNames(cfg)); err != nil {
			log.Error("claiming the node's own LUNs", "err", err)
		}
	}
	return v, runfiles.SetVolume(v)
}

// targetNames returns the names of the targets in a node config.
func targetNames(cfg *nodeconfig.Config) (names []string) {
	for _, t := range cfg.ISCSI.Targets {
		names = append(names, t.Name)
	}
	return names
}

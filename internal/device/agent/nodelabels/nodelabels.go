// Package nodelabels keeps the labels and taints that the cluster knows of this
// node as its config has them. k3s writes labels at each start and removes none,
// and gives taints when the node registers and never again (k3s-io/k3s,
// pkg/agent/run.go, updateMutableLabels). What a config asks for is noted in
// annotations of the Node, so that what a later config leaves out goes, and what
// others gave the node stays.
package nodelabels

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"slices"
	"time"

	"github.com/pikelet-os/pikelet/internal/device/agent/apiserver"
	"github.com/pikelet-os/pikelet/internal/shared/node"
	"github.com/pikelet-os/pikelet/internal/shared/nodeconfig"
)

// How often the cluster is asked: soon after it could not be, later and later
// while it stays so, and seldom once all is as it should be: then only somebody
// else's change makes a difference.
const (
	firstRetry = 5 * time.Second
	lastRetry  = 2 * time.Minute
	settled    = 15 * time.Minute
)

// conflicts is how often a change is tried anew when others change the Node
// meanwhile; the kubelet does so some times a minute.
const conflicts = 5

// Keeper keeps the labels and taints of one node.
type Keeper struct {
	name    string
	wanted  wanted
	configs []string
	save    func(node.LabelStatus) error
	log     *slog.Logger

	logged string // the last problem, so that each is logged once
	status node.LabelStatus
}

// New returns a keeper for the node of a name. It asks with the kubelet's
// credentials, on a server with the administrator's where there are any. save
// keeps the status for whoever asks how the node is.
func New(name string, k nodeconfig.K3s, save func(node.LabelStatus) error, log *slog.Logger) *Keeper {
	configs := []string{apiserver.KubeletConfig}
	if k.Role == "server" {
		// A server without an API server of its own has no use for the first.
		configs = []string{apiserver.AdminConfig, apiserver.KubeletConfig}
	}
	return &Keeper{name: name, wanted: wantedOf(k), configs: configs, save: save, log: log}
}

// Run keeps labels and taints until ctx ends. It needs nothing of the cluster,
// and no answer of an API server ends it.
func (k *Keeper) Run(ctx context.Context) {
	retry := firstRetry
	for {
		wait := settled
		if err := k.Reconcile(ctx); err != nil {
			wait, retry = retry, min(2*retry, lastRetry)
		} else {
			retry = firstRetry
		}
		select {
		case <-ctx.Done():
			return
		case <-time.After(wait):
		}
	}
}

// Reconcile makes labels and taints as the node config has them, once. What the
// API server refuses is no error but part of the status; the errors are those of
// apiserver.
func (k *Keeper) Reconcile(ctx context.Context) error {
	var err error
	for _, config := range k.configs {
		var c *apiserver.Client
		if c, err = apiserver.Open(config); err == nil {
			err = k.with(ctx, c)
		}
		if err == nil || !errors.Is(err, apiserver.ErrNotJoined) && !errors.Is(err, apiserver.ErrUnreachable) {
			break
		}
	}
	if ctx.Err() != nil {
		return ctx.Err()
	}
	k.report(err)
	return err
}

// report saves the status, and logs a problem when it is new. An API server that
// is away or does not know the node yet is none: the checks tell of it.
func (k *Keeper) report(err error) {
	status := k.status
	if err != nil {
		status.Problem = err.Error()
	}
	if serr := k.save(status); serr != nil {
		k.log.Error("saving the status of labels and taints", "err", serr)
	}
	quiet := errors.Is(err, apiserver.ErrNotJoined) || errors.Is(err, apiserver.ErrUnreachable) || errors.Is(err, apiserver.ErrNotFound) ||
		errors.Is(err, apiserver.ErrConflict)
	switch {
	case err == nil && len(status.Refused) == 0:
		k.logged = ""
	case err != nil && !quiet && k.logged != err.Error():
		k.logged = err.Error()
		k.log.Error("setting labels and taints of the node", "err", err)
	}
}

// with reconciles by one client.
func (k *Keeper) with(ctx context.Context, c *apiserver.Client) error {
	var err error
	for range conflicts {
		if err = k.try(ctx, c); !errors.Is(err, apiserver.ErrConflict) {
			return err
		}
	}
	return err
}

// try makes one change. Where the API server refuses it, labels and taints are
// tried one without the other, so that neither keeps the node from the other.
func (k *Keeper) try(ctx context.Context, c *apiserver.Client) error {
	n, err := c.Node(ctx, k.name)
	if err != nil {
		return err
	}
	if n.Metadata.Name != k.name || n.Metadata.ResourceVersion == "" {
		return fmt.Errorf("%w: it is not the node %s", apiserver.ErrAnswer, k.name)
	}
	full := planFor(n, k.wanted, true, true)
	// What was refused before is not asked for again while it is the same.
	whyLabels, whyTaints := k.refusal(full.labelCommand(k.name)), k.refusal(full.taintCommand(k.name))
	var refused error
	for _, part := range []struct{ labels, taints bool }{{true, true}, {true, false}, {false, true}, {false, false}} {
		if part.labels && (len(full.labels) == 0 || whyLabels != "") || part.taints && (!full.set || whyTaints != "") {
			continue
		}
		change := planFor(n, k.wanted, part.labels, part.taints)
		if !change.empty() {
			_, err = c.Patch(ctx, k.name, change.patch())
		}
		switch {
		case err == nil && !part.taints && full.set && whyTaints == "":
			// With the taints it was refused, and without them it was not.
			whyTaints = refused.Error()
			fallthrough
		case err == nil:
			k.done(&full, &change, whyLabels, whyTaints)
			return nil
		case !errors.Is(err, apiserver.ErrRefused):
			return err
		case part.labels && !part.taints:
			whyLabels = err.Error()
		case part.taints && !part.labels:
			whyTaints = err.Error()
		}
		refused, err = err, nil
	}
	return fmt.Errorf("changing the annotations of the node: %w", refused)
}

// refusal returns why a change that a command would make was refused before; ""
// where it was not.
func (k *Keeper) refusal(command string) string {
	for _, r := range k.status.Refused {
		if command != "" && r.Command == command {
			return r.Why
		}
	}
	return ""
}

// done notes what was changed and what of it all was refused, and logs what is
// new.
func (k *Keeper) done(full, change *change, whyLabels, whyTaints string) {
	if len(change.labels) > 0 || change.set {
		k.log.Info("set labels and taints of the node", "labels", slices.Sorted(maps.Keys(change.labels)), "taints", change.set)
	}
	var refused []node.Refusal
	if whyTaints != "" && full.set {
		refused = append(refused, node.Refusal{Why: whyTaints, Command: full.taintCommand(k.name)})
	}
	if whyLabels != "" && len(full.labels) > 0 {
		refused = append(refused, node.Refusal{Why: whyLabels, Command: full.labelCommand(k.name)})
	}
	for _, r := range refused {
		if k.refusal(r.Command) == "" {
			k.log.Warn("the API server refuses a change of the node; somebody who may change it has to", "command", r.Command, "err", r.Why)
		}
	}
	k.status.Refused = refused
}

package agent

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"strings"
	"time"

	"github.com/pikelet-os/pikelet/internal/device/agent/apiserver"
	"github.com/pikelet-os/pikelet/internal/device/agent/motd"
	"github.com/pikelet-os/pikelet/internal/device/agent/runfiles"
	"github.com/pikelet-os/pikelet/internal/shared/node"
)

// clusterLimit is how long the cluster is asked: people wait for the status.
const clusterLimit = 6 * time.Second

// cluster returns what the API server says of a node of this name and boot, by
// the credentials of a kubeconfig. It takes no longer than clusterLimit.
func cluster(ctx context.Context, kubeconfig, name, bootID string) *node.ClusterStatus {
	ctx, stop := context.WithTimeout(ctx, clusterLimit)
	defer stop()
	s := &node.ClusterStatus{}
	labels, err := runfiles.Labels()
	switch {
	case err == nil:
		s.Labels = labels
	case !errors.Is(err, fs.ErrNotExist): // the daemon has not asked yet
		s.Labels.Problem = err.Error()
	}
	c, err := apiserver.Open(kubeconfig)
	if err != nil {
		s.Problem = err.Error()
		return s
	}
	n, err := c.Node(ctx, name)
	if errors.Is(err, apiserver.ErrNotFound) {
		err = fmt.Errorf("the API server knows no node %s", name)
	}
	if err != nil {
		s.Problem = err.Error()
		return s
	}
	describeNode(s, n, bootID)
	s.Server, _ = c.Version(ctx) // one that does not say so is told apart by ""
	return s
}

// Bounds of what is shown of lists that others make.
const maxListed = 32

// describeNode fills in what is known of a node.
func describeNode(s *node.ClusterStatus, n *apiserver.Node, bootID string) {
	ready, _ := n.Condition("Ready")
	s.Ready, s.Reason, s.Message = apiserver.Clean(ready.Status), apiserver.Clean(ready.Reason), apiserver.Clean(ready.Message)
	if s.Ready == "" {
		s.Ready = "Unknown"
	}
	if !ready.Since.IsZero() {
		s.Since = ready.Since.Unix()
	}
	s.BootBefore = n.Status.NodeInfo.BootID != bootID
	s.Kubelet = apiserver.Clean(n.Status.NodeInfo.KubeletVersion)
	s.Unschedulable = n.Spec.Unschedulable
	for _, t := range n.Spec.Taints {
		s.Taints = append(s.Taints, apiserver.Clean(t.String()))
	}
	for _, c := range n.Status.Conditions {
		// All conditions but Ready tell of something bad where they hold.
		if c.Type != "Ready" && c.Status == "True" {
			s.Pressures = append(s.Pressures, apiserver.Clean(c.Type))
		}
	}
	for _, a := range n.Status.Addresses {
		s.Addresses = append(s.Addresses, apiserver.Clean(a.Type+" "+a.Address))
	}
	for _, list := range []*[]string{&s.Taints, &s.Pressures, &s.Addresses} {
		*list = (*list)[:min(len(*list), maxListed)]
	}
}

// describeCluster is what status prints of it.
func describeCluster(s *node.ClusterStatus) string {
	var b strings.Builder
	line := func(format string, args ...any) {
		b.WriteString("cluster " + motd.Indent(fmt.Sprintf(format, args...)) + "\n")
	}
	if s.Problem != "" {
		line("unknown: %s", s.Problem)
	} else {
		line("%s", readiness(s))
		versions := "kubelet " + s.Kubelet
		if s.Server != "" {
			versions += ", server " + s.Server
		}
		line("%s, %s", versions, strings.Join(s.Addresses, ", "))
	}
	if s.Unschedulable {
		line("UNSCHEDULABLE: kubectl uncordon lets pods in again")
	}
	if len(s.Pressures) > 0 {
		line("%s", strings.ToUpper(strings.Join(s.Pressures, ", ")))
	}
	if len(s.Taints) > 0 {
		line("taints %s", strings.Join(s.Taints, ", "))
	}
	if s.Labels.Problem != "" && s.Problem == "" {
		line("LABELS not set: %s", s.Labels.Problem)
	}
	for _, r := range s.Labels.Refused {
		line("REFUSED: %s\n%s", r.Why, node.Hint("from where you may: "+r.Command))
	}
	return b.String()
}

// readiness describes whether a node is Ready, why, and since when.
func readiness(s *node.ClusterStatus) string {
	text := map[string]string{"True": "Ready", "False": "NOT READY", "Unknown": "UNKNOWN"}[s.Ready]
	if text == "" {
		text = s.Ready
	}
	if s.Since != 0 {
		text += " since " + time.Unix(s.Since, 0).UTC().Format("2006-01-02 15:04:05 UTC")
	}
	if s.Ready != "True" {
		text += ": " + strings.TrimSpace(s.Reason+" "+s.Message)
	}
	if s.BootBefore {
		text += "; that is of the boot before this one"
	}
	return text
}

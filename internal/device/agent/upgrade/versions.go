package upgrade

import (
	"context"
	"fmt"

	"github.com/pikelet-os/pikelet/internal/device/agent/apiserver"
	"github.com/pikelet-os/pikelet/internal/shared/skew"
)

// versions asks the API server which versions of Kubernetes concern a node with a
// role in a cluster; nil for a node without one. An agent asks as its kubelet,
// which sees its own Node alone; a server as its administrator, for all nodes. The
// errors are those of apiserver.
func versions(ctx context.Context, role, name, kubelet, admin string) (*skew.Cluster, error) {
	config := kubelet
	switch role {
	case "":
		return nil, nil
	case "server":
		config = admin
	}
	client, err := apiserver.Open(config)
	if err != nil {
		return nil, err
	}
	c := &skew.Cluster{Server: role == "server"}
	text, err := client.Version(ctx)
	if err != nil {
		return nil, err
	}
	if c.API, err = skew.Parse(text); err != nil {
		return nil, fmt.Errorf("%w: %w", apiserver.ErrAnswer, err)
	}
	if !c.Server {
		n, err := client.Node(ctx, name)
		if err != nil {
			return nil, err
		}
		c.Kubelet = kubeletOf(n)
		return c, nil
	}
	// The version of a server is that of its API server: its kubelet is of the same
	// program.
	c.Kubelet = c.API
	nodes, err := client.Nodes(ctx)
	if err != nil {
		return nil, err
	}
	for i := range nodes {
		n := &nodes[i]
		if n.Metadata.Name == name {
			continue
		}
		_, server := n.Metadata.Labels[apiserver.ControlPlane]
		c.Others = append(c.Others, skew.Member{Name: apiserver.Clean(n.Metadata.Name), Server: server, Kubelet: kubeletOf(n)})
	}
	return c, nil
}

// kubeletOf returns the version of a node's kubelet; the zero value where the
// cluster knows none.
func kubeletOf(n *apiserver.Node) skew.Version {
	v, err := skew.Parse(n.Status.NodeInfo.KubeletVersion)
	if err != nil {
		return skew.Version{}
	}
	return v
}

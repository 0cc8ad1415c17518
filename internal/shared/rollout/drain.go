package rollout

import (
	"fmt"
	"strings"
)

// leaving returns the pods of a node that must leave it, and why some may not be
// evicted; "" for nothing.
func (d *decision) leaving(node string) (pods []Pod, refused string) {
	if d.Spec.Drain.Off {
		return nil, ""
	}
	for _, p := range d.Pods[node] {
		switch {
		case p.Static || p.DaemonSet || p.Finished:
			continue
		case !p.Controlled && !d.Spec.Drain.Force && !p.Terminating:
			refused = fmt.Sprintf("pod %s/%s has no controller that makes it anew: drain.force evicts it", p.Namespace, p.Name)
		case p.LocalData && !d.Spec.Drain.LocalData && !p.Terminating:
			refused = fmt.Sprintf("pod %s/%s keeps data in an emptyDir: drain.deleteEmptyDirData evicts it", p.Namespace, p.Name)
		}
		pods = append(pods, p)
	}
	return pods, refused
}

// blocked names the pods that did not leave.
func blocked(pods []Pod) string {
	const most = 3
	var list []string
	for i, p := range pods {
		if i == most {
			list = append(list, fmt.Sprintf("and %d more", len(pods)-most))
			break
		}
		text := p.Namespace + "/" + p.Name
		if p.Blocked != "" {
			text += " (" + p.Blocked + ")"
		}
		list = append(list, text)
	}
	return strings.Join(list, ", ")
}

package rollout

import (
	"fmt"
	"strings"
)

// Leaving returns those of a node's pods that must leave it, and why some may not be
// evicted; "" for nothing.
func (o Drain) Leaving(all []Pod) (pods []Pod, refused string) {
	if o.Off {
		return nil, ""
	}
	for _, p := range all {
		switch {
		case p.Static || p.DaemonSet || p.Finished:
			continue
		case !p.Controlled && !o.Force && !p.Terminating:
			refused = fmt.Sprintf("pod %s/%s has no controller that makes it anew: drain.force evicts it", p.Namespace, p.Name)
		case p.LocalData && !o.LocalData && !p.Terminating:
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

// Package apiserver asks the API server of Kubernetes about this node, with the
// credentials that k3s keeps on it. It knows one object, the Node, and bounds
// the time and size of every answer: a server that is slow, or that answers
// garbage, costs a request and nothing else.
package apiserver

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"strings"
	"time"
	"unicode"

	"github.com/pikelet-os/pikelet/internal/shared/node"
)

// Credentials that k3s keeps (docs/platform.md 7.9).
const (
	// KubeletConfig is the kubelet's. It may change its own Node, but for its
	// taints and for labels in namespaces of Kubernetes
	// (kubernetes/kubernetes, plugin/pkg/admission/noderestriction/admission.go).
	KubeletConfig = node.K3sDir + "/agent/kubelet.kubeconfig"
	// AdminConfig is that of a server's administrator, who may change all.
	AdminConfig = node.K3sServerDir + "/cred/admin.kubeconfig"
)

// What the API server is asked for takes this long at most, the answer
// included. It is so short since people wait for it.
const timeout = 5 * time.Second

// maxAnswer bounds an answer in bytes. A Node has some 10 kB, and at most
// 1.5 MiB: etcd takes no larger request.
const maxAnswer = 4 << 20

var (
	// ErrNotJoined reports that k3s has no credentials yet.
	ErrNotJoined = errors.New("k3s has not joined a cluster yet")
	// ErrUnreachable reports an API server that does not answer.
	ErrUnreachable = errors.New("the API server does not answer")
	// ErrNotFound reports that the API server knows no such node.
	ErrNotFound = errors.New("node not found")
	// ErrConflict reports a change of a version of the Node that is not the
	// current one.
	ErrConflict = errors.New("the node was changed meanwhile")
	// ErrRefused reports a request that the API server does not allow.
	ErrRefused = errors.New("the API server refuses")
	// ErrAnswer reports an answer that no API server gives.
	ErrAnswer = errors.New("invalid answer of the API server")
)

// Client asks one API server.
type Client struct {
	server string
	http   *http.Client
}

// Open returns a client with the credentials of a kubeconfig. The error is
// ErrNotJoined where there is no such file.
func Open(kubeconfig string) (*Client, error) {
	server, config, err := readKubeconfig(kubeconfig)
	if err != nil {
		return nil, err
	}
	return &Client{strings.TrimSuffix(server, "/"), &http.Client{
		Timeout: timeout,
		Transport: &http.Transport{
			TLSClientConfig: config, DisableKeepAlives: true, MaxResponseHeaderBytes: 64 << 10, TLSHandshakeTimeout: timeout,
		},
		// An API server sends no redirects; its credentials go nowhere else.
		CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
	}}, nil
}

// Server returns the address of the API server.
func (c *Client) Server() string { return c.server }

// Node returns what the API server knows of a node. The error is
// ErrUnreachable, ErrNotFound, ErrRefused or ErrAnswer.
func (c *Client) Node(ctx context.Context, name string) (*Node, error) {
	n := &Node{}
	return n, c.do(ctx, http.MethodGet, nodePath(name), "", nil, n)
}

// Limits of a list of nodes: what is asked for at once, and in how many parts at
// most.
const (
	nodesPerPart = 100
	maxParts     = 50
)

// Nodes returns all nodes, which takes an administrator's credentials. The errors
// are those of Node.
func (c *Client) Nodes(ctx context.Context) (all []Node, err error) {
	next := ""
	for range maxParts {
		var list struct {
			Metadata struct{ Continue string }
			Items    []Node
		}
		path := fmt.Sprintf("/api/v1/nodes?limit=%d", nodesPerPart)
		if next != "" {
			path += "&continue=" + url.QueryEscape(next)
		}
		if err := c.do(ctx, http.MethodGet, path, "", nil, &list); err != nil {
			return nil, err
		}
		all = append(all, list.Items...)
		if next = list.Metadata.Continue; next == "" {
			return all, nil
		}
	}
	return nil, fmt.Errorf("%w: more than %d nodes", ErrAnswer, maxParts*nodesPerPart)
}

// Patch changes a node by a JSON merge patch (RFC 7396). One that holds
// metadata.resourceVersion changes that version alone: the error is ErrConflict
// where it is not the current one, or one of those of Node.
func (c *Client) Patch(ctx context.Context, name string, patch any) (*Node, error) {
	b, err := json.Marshal(patch)
	if err != nil {
		return nil, err
	}
	n := &Node{}
	return n, c.do(ctx, http.MethodPatch, nodePath(name)+"?"+manager, mergePatch, b, n)
}

// SetCondition sets one condition of a node's status, and leaves the others. The
// errors are those of Node.
func (c *Client) SetCondition(ctx context.Context, name string, condition NewCondition) error {
	b, err := json.Marshal(map[string]any{"status": map[string]any{"conditions": []NewCondition{condition}}})
	if err != nil {
		return err
	}
	return c.do(ctx, http.MethodPatch, nodePath(name)+"/status?"+manager, strategicPatch, b, &Node{})
}

// Record makes an event about a node. The errors are those of Node.
func (c *Client) Record(ctx context.Context, e Event) error {
	b, err := json.Marshal(e.object())
	if err != nil {
		return err
	}
	return c.do(ctx, http.MethodPost, "/api/v1/namespaces/default/events?"+manager, "application/json", b, &struct{}{})
}

// manager says in the fields of objects who changed them.
const manager = "fieldManager=pikeletd"

// Kinds of patches
// (https://kubernetes.io/docs/tasks/manage-kubernetes-objects/update-api-object-kubectl-patch/).
const (
	mergePatch     = "application/merge-patch+json"
	strategicPatch = "application/strategic-merge-patch+json"
)

// Version returns the version of the API server, such as v1.34.4+k3s1. The
// errors are those of Node.
func (c *Client) Version(ctx context.Context) (string, error) {
	var v struct{ GitVersion string }
	if err := c.do(ctx, http.MethodGet, "/version", "", nil, &v); err != nil {
		return "", err
	}
	return Clean(v.GitVersion), nil
}

func nodePath(name string) string { return "/api/v1/nodes/" + url.PathEscape(name) }

// do makes a request, with a body of a kind where there is one, and decodes the
// answer into to.
func (c *Client) do(ctx context.Context, method, path, kind string, body []byte, to any) error {
	req, err := http.NewRequestWithContext(ctx, method, c.server+path, bytes.NewReader(body))
	if err != nil {
		return err
	}
	req.Header.Set("Accept", "application/json")
	req.Header.Set("User-Agent", "pikeletd")
	if kind != "" {
		req.Header.Set("Content-Type", kind)
	}
	resp, err := c.http.Do(req)
	if err != nil {
		return fmt.Errorf("%w: %w", ErrUnreachable, err)
	}
	defer resp.Body.Close()
	b, err := io.ReadAll(io.LimitReader(resp.Body, maxAnswer+1))
	switch {
	case err != nil:
		return fmt.Errorf("%w: reading the answer: %w", ErrUnreachable, err)
	case len(b) > maxAnswer:
		return fmt.Errorf("%w: larger than %d bytes", ErrAnswer, maxAnswer)
	case resp.StatusCode != http.StatusOK && resp.StatusCode != http.StatusCreated:
		return statusError(resp, b)
	}
	if err := json.Unmarshal(b, to); err != nil {
		return fmt.Errorf("%w: %w", ErrAnswer, err)
	}
	return nil
}

// statusError returns the error of an answer that is not 200. An API server
// says why in a Status object.
func statusError(resp *http.Response, b []byte) error {
	var s struct{ Kind, Message string }
	text := resp.Status
	if json.Unmarshal(b, &s) == nil && s.Kind == "Status" && s.Message != "" {
		text = s.Message
	}
	text = Clean(text)
	switch code := resp.StatusCode; {
	case code >= 500 || code == http.StatusTooManyRequests:
		return fmt.Errorf("%w: %s", ErrUnreachable, text)
	case code == http.StatusNotFound:
		return ErrNotFound
	case code == http.StatusConflict:
		return fmt.Errorf("%w: %s", ErrConflict, text)
	case code == http.StatusForbidden || code == http.StatusUnauthorized || code == http.StatusUnprocessableEntity ||
		code == http.StatusBadRequest:
		return fmt.Errorf("%w: %s", ErrRefused, text)
	}
	return fmt.Errorf("%w: %s", ErrAnswer, text)
}

// maxText is how much of a text of the API server is shown, in bytes.
const maxText = 300

// Clean returns a text of the API server as it may be shown on a terminal: on
// one line, without control characters, and not too long.
func Clean(s string) string {
	if len(s) > maxText {
		s = strings.ToValidUTF8(s[:maxText], "") + "..."
	}
	s = strings.Map(func(r rune) rune {
		if !unicode.IsPrint(r) {
			return ' '
		}
		return r
	}, s)
	return strings.Join(strings.Fields(s), " ")
}

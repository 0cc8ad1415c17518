// Package remote runs subcommands of pikeletd on nodes, with the ssh of whoever runs
// pikelet: their keys, known_hosts and configuration.
package remote

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"slices"
	"strings"

	"github.com/pikelet-os/pikelet/internal/shared/hint"
	"github.com/pikelet-os/pikelet/internal/shared/node"
)

// At says where a node is.
type At struct {
	Host    string   // as ssh takes it
	Address string   // where it is instead of what ssh makes of Host; "" for that
	Keys    []string // host keys of the node beside those in known_hosts, as known_hosts has them
}

// Run runs a subcommand of pikeletd on a node, and returns what it prints. Its error is
// a *Error where the node or ssh said what is wrong.
type Run func(ctx context.Context, at At, stdin io.Reader, verb ...string) ([]byte, error)

// Error is what ssh, or pikeletd on the node, ended with.
type Error struct {
	Status int    // exit status
	Text   string // the message, without advice
}

// statusSSH is the exit status of ssh where it does not reach the node, and statusUsage
// the one of a pikeletd that does not know the subcommand
// (https://man.openbsd.org/ssh#EXIT_STATUS).
const (
	statusSSH   = 255
	statusUsage = 2
)

// Error implements error.
func (e *Error) Error() string { return e.Text }

// Unreachable reports whether the node was not reached.
func (e *Error) Unreachable() bool { return e.Status == statusSSH }

// Unknown reports whether the node's pikeletd does not know the subcommand or a flag
// of it.
func (e *Error) Unknown() bool { return e.Status == statusUsage }

// maxOutput limits what is kept of the output of a node, in bytes: a status with the
// results of all checks, or a config of 64 KiB as JSON.
const maxOutput = 4 << 20

// always are the options of each connection (https://man.openbsd.org/ssh_config). A node
// that restarts, or has another address by now, does not answer at all: ssh gives up
// after 10 s, and after 45 s where a connection goes dead. One that it shared with others
// would be dead with the node, and would keep ssh's output open.
var always = []string{"-o", "BatchMode=yes", "-o", "ConnectTimeout=10", "-o", "ServerAliveInterval=15", "-o", "ControlPath=none"}

// SSH runs subcommands over ssh. Nothing asks for a password or a passphrase: several
// nodes are talked to at the same time.
type SSH struct {
	Config string // file for ssh -F; "" for the default
}

// Run implements Run.
func (s SSH) Run(ctx context.Context, at At, stdin io.Reader, verb ...string) ([]byte, error) {
	known, clean, err := knownHosts(at.Keys)
	if err != nil {
		return nil, err
	}
	defer clean()
	args, err := s.arguments(at, known, verb)
	if err != nil {
		return nil, err
	}
	cmd := exec.CommandContext(ctx, "ssh", args...)
	var out, stderr limited
	cmd.Stdin, cmd.Stdout, cmd.Stderr = stdin, &out, &stderr
	err = cmd.Run()
	var exit *exec.ExitError
	switch {
	case ctx.Err() != nil:
		return nil, ctx.Err()
	case errors.As(err, &exit):
		return out.kept.Bytes(), parse(exit.ExitCode(), stderr.kept.String())
	case err != nil:
		return nil, fmt.Errorf("running ssh: %w", err)
	}
	return out.kept.Bytes(), nil
}

// arguments returns the arguments of ssh. known is a file with host keys, or "".
func (s SSH) arguments(at At, known string, verb []string) ([]string, error) {
	if at.Host == "" || strings.HasPrefix(at.Host, "-") {
		return nil, fmt.Errorf("%q is not a host", at.Host)
	}
	args := slices.Clone(always)
	if s.Config != "" {
		args = append(args, "-F", s.Config)
	}
	if at.Address != "" {
		args = append(args, "-o", "HostName="+at.Address)
	}
	if known != "" {
		// In the place of the system's files, with them: the user's own stay as they are.
		args = append(args, "-o", `GlobalKnownHostsFile="`+known+`" /etc/ssh/ssh_known_hosts /etc/ssh/ssh_known_hosts2`)
	}
	args = append(args, at.Host, "doas", "/usr/sbin/pikeletd")
	return append(args, verb...), nil
}

// knownHosts writes host keys to a file in which they are good for any host: it is for
// one connection to one node.
func knownHosts(keys []string) (file string, clean func(), err error) {
	if len(keys) == 0 {
		return "", func() {}, nil
	}
	f, err := os.CreateTemp("", "pikelet-known-")
	if err != nil {
		return "", nil, err
	}
	clean = func() { os.Remove(f.Name()) }
	for _, k := range keys {
		if fields := strings.Fields(k); len(fields) >= 2 && !strings.ContainsAny(k, "\n\r") {
			_, err = fmt.Fprintf(f, "* %s %s\n", fields[0], fields[1])
		}
		if err != nil {
			break
		}
	}
	if err = errors.Join(err, f.Close()); err != nil {
		clean()
		return "", nil, err
	}
	return f.Name(), clean, nil
}

// parse returns the error that the standard error of ssh tells: the last line that is
// no advice, and the advice.
func parse(status int, stderr string) error {
	var advice []string
	e := &Error{Status: status, Text: fmt.Sprintf("ssh ended with exit status %d", status)}
	for line := range strings.Lines(stderr) {
		line = strings.TrimSpace(strings.Map(printable, line))
		if h, ok := node.ParseHint(line); ok {
			advice = append(advice, h)
		} else if line != "" {
			e.Text = strings.TrimPrefix(line, "pikeletd: ")
		}
	}
	var err error = e
	for _, h := range advice {
		err = hint.With(err, h)
	}
	return err
}

// printable drops what could move a terminal's cursor.
func printable(r rune) rune {
	if r < ' ' && r != '\n' && r != '\t' || r == 0x7f || r >= 0x80 && r < 0xa0 {
		return -1
	}
	return r
}

// Printable returns the text of a node without terminal escape sequences.
func Printable(text string) string { return strings.Map(printable, text) }

// limited keeps the first maxOutput bytes written to it.
type limited struct {
	kept bytes.Buffer // no embedded one: io.Copy would find its ReadFrom
}

// Write implements io.Writer.
func (l *limited) Write(b []byte) (int, error) {
	if room := maxOutput - l.kept.Len(); room < len(b) {
		l.kept.Write(b[:max(room, 0)])
		return len(b), nil
	}
	return l.kept.Write(b)
}

var _ Run = SSH{}.Run

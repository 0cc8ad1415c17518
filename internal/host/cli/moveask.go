package cli

import (
	"bytes"
	"context"
	"crypto/rand"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"os/exec"
	"strings"
	"time"

	"github.com/pikelet-os/pikelet/internal/shared/backup"
)

// lostSoon has ssh notice within a minute that a node lost its power.
var lostSoon = []string{"-o", "ConnectTimeout=30", "-o", "ServerAliveInterval=10", "-o", "ServerAliveCountMax=6"}

// errUnreachable is returned where ssh reached no node, or lost it.
var errUnreachable = errors.New("ssh does not reach it")

// sshFailed is the exit status with which ssh reports an error of its own (ssh(1)).
const sshFailed = 255

// maxAnswer bounds what a verb prints, in bytes.
const maxAnswer = 4 << 20

// ask runs a verb of pikeletd backup on a host, and returns what it prints.
func (m *move) ask(ctx context.Context, host string, stdin io.Reader, verb ...string) ([]byte, error) {
	cmd, err := m.ssh.command(ctx, host, append([]string{"backup"}, verb...))
	if err != nil {
		return nil, err
	}
	return runOver(cmd, host, stdin)
}

// runOver runs ssh, and returns what the verb prints.
func runOver(cmd *exec.Cmd, host string, stdin io.Reader) ([]byte, error) {
	out, said := &bounded{left: maxAnswer}, &bounded{left: maxAnswer}
	cmd.Stdin, cmd.Stdout, cmd.Stderr = stdin, out, said
	err := cmd.Run()
	if err == nil {
		return out.Bytes(), nil
	}
	if cmd.ProcessState != nil && cmd.ProcessState.ExitCode() == sshFailed {
		err = errUnreachable
	}
	err = fmt.Errorf("%s: %w", host, err)
	if text := strings.TrimSpace(said.String()); text != "" {
		err = fmt.Errorf("%w: %w", err, refusal(text))
	}
	return nil, err
}

// bounded is a buffer that ignores what it has no room for.
type bounded struct {
	bytes.Buffer
	left int
}

// Write implements io.Writer.
func (b *bounded) Write(p []byte) (int, error) {
	n := min(len(p), b.left)
	b.left -= n
	b.Buffer.Write(p[:n])
	return len(p), nil
}

func (m *move) look(ctx context.Context, host string) (backup.Status, error) {
	b, err := m.ask(ctx, host, nil, "status")
	if err != nil {
		return backup.Status{}, err
	}
	s, err := backup.DecodeStatus(b)
	if err == nil && s.Waiting != "" {
		err = fmt.Errorf("%s: %s: %w", host, s.Waiting, errNotYet)
	}
	return s, err
}

// until asks again and again, for some time, until done or an error that is no
// question of time. The last error is returned.
func (m *move) until(ctx context.Context, limit time.Duration, done func() (bool, error)) error {
	pause := 200 * time.Millisecond
	said := ""
	for start := time.Now(); ; {
		ok, err := done()
		if ok || err != nil && !errors.Is(err, errUnreachable) && !errors.Is(err, errNotYet) {
			return err
		}
		if time.Since(start) >= limit {
			return err
		}
		if err != nil && err.Error() != said {
			said = err.Error()
			m.log.Info("waiting", "for", said)
		}
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-time.After(pause):
		}
		pause = min(2*pause, 5*time.Second)
	}
}

// errNotYet is returned while a node has to do something still.
var errNotYet = errors.New("not yet")

// newID returns an id that no other move has.
func newID() string {
	b := make([]byte, 8)
	rand.Read(b)
	return hex.EncodeToString(b)
}

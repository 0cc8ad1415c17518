package cli

import (
	"bytes"
	"errors"
	"fmt"
	"io"

	"github.com/spf13/cobra"
)

// maxPassphrase is more than a node takes, bytes; it says what is too long.
const maxPassphrase = 4096

func newUnlock(a *app) *cobra.Command {
	var isNew bool
	var ssh overSSH
	c := &cobra.Command{
		Use:   "unlock HOST",
		Short: "Open the encrypted volume of a node with its passphrase",
		Long: `Open the encrypted volume of a node that waits for its passphrase. The passphrase
is asked for at the terminal, or else read from standard input, up to the end of
its first line. It reaches the node over ssh, with your own keys, known_hosts and
~/.ssh/config, by the standard input of "doas pikeletd volume unlock"; no command
line and no environment has it. With --new it becomes the passphrase of a disk
that is blank.`,
		Example: `  pikelet unlock --new attic
  pikelet unlock attic`,
		GroupID: groupNodes,
		Args:    exactly(1, "a host, as ssh takes it"),
		RunE: func(c *cobra.Command, args []string) error {
			word, err := a.passphrase(isNew)
			if err != nil {
				return err
			}
			verb := []string{"volume", "unlock"}
			if isNew {
				verb = append(verb, "--new")
			}
			if err := a.remote(c.Context(), &ssh, args[0], bytes.NewReader(append(word, '\n')), verb...); err != nil {
				return fmt.Errorf("unlocking %s: %w", args[0], err)
			}
			return nil
		},
	}
	c.Flags().BoolVar(&isNew, "new", false, "make the passphrase that of a blank disk")
	ssh.addFlags(c)
	return c
}

// passphrase asks for a passphrase, and again for a new one.
func (a *app) passphrase(isNew bool) ([]byte, error) {
	if !isTerminal(a.in) {
		b, err := io.ReadAll(io.LimitReader(a.in, maxPassphrase))
		line, _, _ := bytes.Cut(b, []byte("\n"))
		return line, err
	}
	word, err := a.ask("Passphrase of the volume: ")
	if err != nil || !isNew {
		return word, err
	}
	again, err := a.ask("Repeat the passphrase: ")
	if err == nil && !bytes.Equal(word, again) {
		err = errors.New("reading the passphrase: the two differ")
	}
	return word, err
}

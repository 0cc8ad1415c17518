package cli

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	"github.com/spf13/cobra"

	"github.com/pikelet-os/pikelet/internal/host/importer"
	"github.com/pikelet-os/pikelet/internal/host/provision"
	"github.com/pikelet-os/pikelet/internal/shared/atomicfile"
	"github.com/pikelet-os/pikelet/internal/shared/hint"
)

// importOptions are the flags of pikelet import.
type importOptions struct {
	output     string
	force      bool
	recipients []string
	identity   nodeOptions
	keys       []string // files
	country    string
}

func newImport(a *app) *cobra.Command {
	var o importOptions
	c := &cobra.Command{
		Use:   "import FORMAT FILE",
		Short: "Make an inventory of another project's files",
		Long: `Make an inventory of what you have in another project's format, and say line by
line what it could not carry and what to do about it:

  k3s-ansible   an inventory, .yml or .ini, with group_vars and host_vars beside it
  raspi-alpine  a file of variables or a script that runs raspi-alpine/builder, or
                a copy of a machine's data partition
  k3os          a config.yaml of k3OS
  cloud-init    user-data, with network-config and meta-data beside it

Nothing is evaluated: templates and what ansible-vault encrypted are named. Secrets
are encrypted to your age keys, or to those that --recipient names; without any they
are left out and named. The inventory is one that pikelet node check takes. An
existing file is left as it is without --force.`,
		Example: `  pikelet import k3s-ansible inventory/my-cluster/hosts.ini --ssh-key ~/.ssh/id_ed25519.pub
  pikelet import cloud-init /media/bootfs/user-data -o attic.yaml`,
		GroupID:   groupNodes,
		Args:      exactly(2, "a format ("+strings.Join(importer.Formats(), ", ")+") and a file"),
		ValidArgs: importer.Formats(),
		RunE:      func(_ *cobra.Command, args []string) error { return a.importFile(&o, args[0], args[1]) },
	}
	f := c.Flags()
	f.StringVarP(&o.output, "output", "o", "nodes.yaml", "`FILE` to write")
	f.BoolVar(&o.force, "force", false, "replace an existing file")
	f.StringArrayVarP(&o.recipients, "recipient", "r", nil, "public `KEY` to encrypt secrets to; repeatable (default: those of --identity)")
	f.StringArrayVar(&o.keys, "ssh-key", nil, "`FILE.pub` with public keys for users that come without any; repeatable")
	f.StringVar(&o.country, "country", "", "`XX`, the country of wireless networks where the file has none")
	addIdentityFlag(c, &o.identity.identity)
	return c
}

func (a *app) importFile(o *importOptions, format, file string) error {
	options := importer.Options{Country: strings.ToUpper(o.country)}
	recipients, err := o.sealTo()
	if err != nil {
		return err
	}
	if len(recipients) > 0 {
		options.Seal = func(secret string) (string, error) { return provision.Encrypt(secret, recipients) }
	}
	if options.Keys, err = o.publicKeys(); err != nil {
		return err
	}
	dir, base := filepath.Split(filepath.Clean(file))
	if dir == "" {
		dir = "."
	}
	result, err := importer.Read(os.DirFS(dir), format, base, options)
	if err != nil {
		return fmt.Errorf("importing %s: %w", file, err)
	}
	if _, err := os.Lstat(o.output); err == nil && !o.force {
		return hint.With(fmt.Errorf("%s was left as it is: %w", o.output, fs.ErrExist), "--force replaces it, and -o names another file")
	}
	if err := o.writeInventory(result.Inventory); err != nil {
		return err
	}
	var text strings.Builder
	for i := range result.Notes {
		result.Notes[i].File = filepath.Join(dir, result.Notes[i].File)
		fmt.Fprintln(&text, result.Notes[i])
	}
	fmt.Fprintf(&text, "%s: %d nodes; %d lines to look at", o.output, result.Nodes, len(result.Notes))
	if len(result.LeftOut) > 0 {
		fmt.Fprintf(&text, "\nleft out, because secret: %s", strings.Join(result.LeftOut, ", "))
	}
	if result.Notes == nil {
		result.Notes = []importer.Note{}
	}
	a.result(map[string]any{"inventory": o.output, "nodes": result.Nodes, "notes": result.Notes, "leftOut": result.LeftOut}, text.String())
	return nil
}

// sealTo returns the public keys that secrets are encrypted to, none if there are
// none.
func (o *importOptions) sealTo() ([]string, error) {
	if len(o.recipients) > 0 {
		_, err := provision.Encrypt("", o.recipients)
		if err != nil {
			err = usageError{fmt.Errorf("--recipient: %w", err)}
		}
		return o.recipients, err
	}
	keys, err := o.identity.keys()
	if err != nil {
		if o.identity.identity == "" && errors.Is(err, fs.ErrNotExist) {
			return nil, nil
		}
		return nil, err
	}
	return keys.Recipients(), nil
}

// publicKeys returns the lines of the files that --ssh-key names.
func (o *importOptions) publicKeys() (keys []string, err error) {
	for _, name := range o.keys {
		b, err := os.ReadFile(name)
		if err != nil {
			return nil, err
		}
		for _, line := range strings.Split(string(b), "\n") {
			if line = strings.TrimSpace(line); line != "" && line[0] != '#' {
				keys = append(keys, line)
			}
		}
	}
	return keys, nil
}

func (o *importOptions) writeInventory(text []byte) error {
	if o.force {
		return atomicfile.Write(o.output, text, 0o644)
	}
	return create(o.output, string(text))
}

package cli

import (
	_ "embed"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"strings"

	"github.com/spf13/cobra"

	"github.com/pikelet-os/pikelet/builder/spec"
	"github.com/pikelet-os/pikelet/internal/shared/hint"
)

//go:embed init.yaml
var startingSpec string

func newInit(a *app) *cobra.Command {
	return &cobra.Command{
		Use:   "init [FILE]",
		Short: "Write a commented image spec to start from",
		Long: `Write a commented image spec to start from, image.yaml by default, and its JSON
schema for editors beside it. Existing files are left as they are.`,
		Example: "  pikelet init homelab.yaml",
		GroupID: groupBuild,
		Args: func(_ *cobra.Command, args []string) error {
			if len(args) > 1 {
				return usagef("want one file, got %d arguments", len(args))
			}
			return nil
		},
		RunE: func(_ *cobra.Command, args []string) error {
			file := "image.yaml"
			if len(args) == 1 {
				file = args[0]
			}
			return runInit(file, a)
		},
	}
}

// notName matches what the name of an image may not contain.
var notName = regexp.MustCompile(`[^a-z0-9-]+`)

func runInit(file string, a *app) error {
	dir, err := filepath.Abs(filepath.Dir(file))
	if err != nil {
		return err
	}
	name := strings.Trim(notName.ReplaceAllString(strings.ToLower(filepath.Base(dir)), "-"), "-")
	if name == "" {
		name = "homelab"
	}
	schema := filepath.Join(filepath.Dir(file), "image.schema.json")
	if err := create(file, strings.Replace(startingSpec, "NAME", name, 1)); err != nil {
		return err
	}
	if err := create(schema, string(spec.Schema())); err != nil && !errors.Is(err, fs.ErrExist) {
		return err
	}
	a.result(map[string]string{"spec": file, "schema": schema}, file+"\nChange what is marked, then: pikelet build "+file)
	return nil
}

// create writes a file that must not exist yet; the error is fs.ErrExist then.
func create(name, text string) error {
	f, err := os.OpenFile(name, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o644)
	if errors.Is(err, fs.ErrExist) {
		return hint.With(fmt.Errorf("%s was left as it is: %w", name, fs.ErrExist), "edit it, or name another file")
	}
	if err != nil {
		return err
	}
	if _, err := f.WriteString(text); err != nil {
		f.Close()
		os.Remove(name)
		return err
	}
	return f.Close()
}

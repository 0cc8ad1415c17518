package main

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"runtime"

	"github.com/spf13/cobra"

	"github.com/pikelet-os/pikelet/builder"
	"github.com/pikelet-os/pikelet/builder/device"
	"github.com/pikelet-os/pikelet/builder/fetch"
	"github.com/pikelet-os/pikelet/builder/spec"
)

type buildOptions struct {
	Spec  string
	Out   string
	Key   string
	Cache string
}

func newBuild() *cobra.Command {
	var o buildOptions
	c := &cobra.Command{
		Use:   "build SPEC",
		Short: "Build an image from its spec",
		Long: `Build an image from its spec.

The output folder then holds disk.img, to be written to a card; artifact/, the
signed OCI layout; and the text of each stage, for reading and comparing.`,
		Args: exactly(1, "the image spec"),
		RunE: func(c *cobra.Command, args []string) error {
			o.Spec = args[0]
			return runBuild(c.Context(), o, c.OutOrStdout())
		},
	}
	c.Flags().StringVarP(&o.Out, "output", "o", "out", "folder the image is written to")
	c.Flags().StringVar(&o.Key, "key", "", "private key that signs, PEM (default: a development key of your own, made on first use)")
	c.Flags().StringVar(&o.Cache, "cache", "", "folder downloads are kept in (default: your cache folder)")
	return c
}

// exactly is cobra.ExactArgs with an error that says what is missing.
func exactly(n int, what string) cobra.PositionalArgs {
	return func(_ *cobra.Command, args []string) error {
		if len(args) != n {
			return usageError{fmt.Errorf("want %s, got %d arguments", what, len(args))}
		}
		return nil
	}
}

func runBuild(ctx context.Context, o buildOptions, out io.Writer) error {
	img, err := spec.Load(o.Spec)
	if err != nil {
		return err
	}
	programs, err := device.Load()
	if err != nil {
		return err
	}
	key, err := signingKey(o.Key, out)
	if err != nil {
		return err
	}
	if o.Cache == "" {
		if o.Cache, err = userFolder(os.UserCacheDir); err != nil {
			return err
		}
	}
	if img.Console == spec.ConsoleRoot {
		fmt.Fprintln(out, "console: root is set: whoever reaches the console of this image is root")
	}
	r, err := builder.Build(ctx, img, builder.Inputs{
		Cache: fetch.New(filepath.Join(o.Cache, "packages")), Programs: programs, Key: key, Workers: runtime.GOMAXPROCS(0),
		Report: func(s string) { fmt.Fprintln(out, s) },
	}, o.Out)
	if err != nil {
		return err
	}
	for _, w := range r.Warnings {
		fmt.Fprintln(out, "warning:", w)
	}
	fmt.Fprintf(out, "%s\n%s (OCI manifest %s)\n", r.Disk, r.Artifact.Dir, r.Digest)
	return nil
}

func userFolder(base func() (string, error)) (string, error) {
	dir, err := base()
	return filepath.Join(dir, "pikelet"), err
}

// signingKey reads a private key, or the user's development key.
func signingKey(name string, out io.Writer) (*ecdsa.PrivateKey, error) {
	if name == "" {
		dir, err := userFolder(os.UserConfigDir)
		if err != nil {
			return nil, err
		}
		name = filepath.Join(dir, "development.key")
		if _, err := os.Stat(name); errors.Is(err, fs.ErrNotExist) {
			if err := makeKey(name); err != nil {
				return nil, err
			}
			fmt.Fprintln(out, "made a development key:", name)
		}
		fmt.Fprintln(out, "signing with your development key; use --key for images others rely on")
	}
	b, err := os.ReadFile(name)
	if err != nil {
		return nil, fmt.Errorf("reading the signing key: %w", err)
	}
	block, _ := pem.Decode(b)
	if block == nil {
		return nil, fmt.Errorf("reading the signing key %s: it is no PEM file", name)
	}
	var key any
	switch block.Type {
	case "PRIVATE KEY":
		key, err = x509.ParsePKCS8PrivateKey(block.Bytes)
	case "EC PRIVATE KEY":
		key, err = x509.ParseECPrivateKey(block.Bytes)
	default:
		err = fmt.Errorf("a PEM block %q; want an unencrypted PRIVATE KEY", block.Type)
	}
	if err != nil {
		return nil, fmt.Errorf("reading the signing key %s: %w", name, err)
	}
	ec, ok := key.(*ecdsa.PrivateKey)
	if !ok || ec.Curve != elliptic.P256() {
		return nil, fmt.Errorf("reading the signing key %s: want an ECDSA key on P-256", name)
	}
	return ec, nil
}

func makeKey(name string) error {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return err
	}
	der, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		return err
	}
	if err := os.MkdirAll(filepath.Dir(name), 0o700); err != nil {
		return err
	}
	return os.WriteFile(name, pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: der}), 0o600)
}

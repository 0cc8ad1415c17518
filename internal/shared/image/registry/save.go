package registry

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	"github.com/pikelet-os/pikelet/internal/shared/hint"
	"github.com/pikelet-os/pikelet/internal/shared/image"
)

// SaveFiles writes an image's files into a directory that is not there yet, under
// their own names, with manifest.json and signature.json beside them.
func SaveFiles(ctx context.Context, img *Published, dir string, progress Progress) error {
	return whole(img, "files", dir, func(part string) error {
		signature, err := img.Signature.Encode()
		if err != nil {
			return err
		}
		for _, f := range img.Files {
			if err := ctx.Err(); err != nil {
				return err
			}
			name := filepath.Join(part, filepath.FromSlash(f.Name))
			if err := os.MkdirAll(filepath.Dir(name), 0o755); err != nil {
				return err
			}
			if st, err := os.Stat(name); err == nil && st.Size() == f.Size {
				continue // it got its name when it was whole
			}
			if err := save(metered{newReader(ctx, img.From, f.Digest, f.Size), progress}, name+partSuffix); err != nil {
				return fmt.Errorf("writing %q: %w", f.Name, err)
			}
			if err := os.Rename(name+partSuffix, name); err != nil {
				return err
			}
		}
		if err := os.WriteFile(filepath.Join(part, image.ManifestFile), img.Text, 0o644); err != nil {
			return err
		}
		return os.WriteFile(filepath.Join(part, image.SignatureFile), signature, 0o644)
	})
}

// SaveLayout writes an image, with its signatures and what refers to it, as an
// OCI layout into a directory that is not there yet.
func SaveLayout(ctx context.Context, img *Published, dir string, progress Progress) error {
	return whole(img, "layout", dir, func(part string) error { return fillLayout(ctx, img, part, progress) })
}

func fillLayout(ctx context.Context, img *Published, dir string, progress Progress) error {
	l, err := CreateLayout(dir)
	if err != nil {
		return err
	}
	if err := Copy(ctx, img, l, []string{img.Release}, nil, progress); err != nil {
		return err
	}
	return l.Finish()
}

// SaveArchive writes what SaveLayout writes as one file.
func SaveArchive(ctx context.Context, img *Published, file string, progress Progress) error {
	return whole(img, "archive", file, func(part string) error {
		if err := fillLayout(ctx, img, part, progress); err != nil {
			return err
		}
		f, err := os.Create(part + partSuffix)
		if err != nil {
			return err
		}
		defer f.Close()
		if err := OpenLayout(part).WriteArchive(f); err != nil {
			os.Remove(f.Name())
			return err
		}
		if err := f.Close(); err != nil {
			return err
		}
		if err := os.RemoveAll(part); err != nil {
			return err
		}
		return os.Rename(f.Name(), part)
	})
}

// Keep returns an image whose files are in a layout in a directory: the one that
// is there, if it is still whole, or one that is written now.
func Keep(ctx context.Context, img *Published, dir string, progress Progress) (*Published, error) {
	kept := *img
	kept.From = OpenLayout(dir)
	kept.Source = source{kept.From}
	if _, err := os.Stat(filepath.Join(dir, layoutFile)); err == nil {
		if kept.ReadFiles(ctx, nil, "") == nil {
			return &kept, nil
		}
		if err := os.RemoveAll(dir); err != nil {
			return nil, err
		}
	}
	return &kept, fillLayout(ctx, img, dir, progress)
}

// whole has a directory or a file made under another name beside its own, which
// it gets when it is whole. An attempt that is interrupted leaves the other:
// the next one of the same image in the same form goes on with it. The error is
// fs.ErrExist where something has the name already.
func whole(img *Published, form, name string, fill func(part string) error) error {
	if st, err := os.Stat(name); err == nil && !(st.IsDir() && isEmpty(name)) {
		return hint.With(fmt.Errorf("writing %s: %w", name, fs.ErrExist), "name another, or remove that one")
	}
	part := name + ".partial-" + form + "-" + strings.TrimPrefix(img.Digest, "sha256:")[:12]
	if err := os.MkdirAll(part, 0o755); err != nil {
		return err
	}
	if err := fill(part); err != nil {
		if !errors.Is(err, context.Canceled) && !errors.Is(err, io.ErrUnexpectedEOF) && !errors.Is(err, ErrGivenUp) {
			os.RemoveAll(part) // refused, not interrupted: nothing of it is wanted
		}
		os.Remove(part) // where nothing came yet
		return err
	}
	if err := os.Remove(name); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	return os.Rename(part, name)
}

func isEmpty(dir string) bool {
	list, err := os.ReadDir(dir)
	return err == nil && len(list) == 0
}

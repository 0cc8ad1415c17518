package backup

import (
	"archive/tar"
	"crypto/sha256"
	"encoding/json"
	"fmt"
	"io"
	"time"

	"filippo.io/age"
	"github.com/klauspost/compress/zstd"

	"github.com/pikelet-os/pikelet/internal/shared/image"
)

// Writer writes a backup.
type Writer struct {
	made   time.Time
	tar    *tar.Writer
	zstd   *zstd.Encoder
	sealed io.WriteCloser
	sums   map[string]sum
}

// NewWriter begins a backup that some keys open. Its Close ends it: what is not
// closed is refused by who reads it.
func NewWriter(w io.Writer, i Info, recipients ...age.Recipient) (*Writer, error) {
	i.Format = 1
	if err := i.check(); err != nil {
		return nil, fmt.Errorf("writing a backup: %w", err)
	}
	z, sealed, err := encoders(w, recipients)
	if err != nil {
		return nil, err
	}
	b := &Writer{made: i.Made, tar: tar.NewWriter(z), zstd: z, sealed: sealed, sums: map[string]sum{}}
	text, err := json.MarshalIndent(i, "", "  ")
	if err != nil {
		return nil, err
	}
	return b, b.member(infoName, text)
}

// Add adds a file of a size, in bytes.
func (b *Writer) Add(name string, size int64, r io.Reader) error {
	limit, ok := allowed(name)
	switch _, twice := b.sums[name]; {
	case !ok || twice:
		return fmt.Errorf("writing a backup: %q has no place in one", name)
	case size > limit:
		return fmt.Errorf("writing a backup: %s has %d bytes, want at most %d", name, size, limit)
	case len(b.sums) == MaxFiles:
		return fmt.Errorf("writing a backup: more than %d files", MaxFiles)
	}
	if err := b.header(name, size); err != nil {
		return err
	}
	digest := sha256.New()
	if n, err := io.Copy(io.MultiWriter(b.tar, digest), io.LimitReader(r, size)); err != nil || n != size {
		return fmt.Errorf("writing a backup: %s has %d bytes, want %d: %w", name, n, size, orShort(err))
	}
	b.sums[name] = sum{size, image.DigestOfSum(digest.Sum(nil))}
	return nil
}

func orShort(err error) error {
	if err == nil {
		return io.ErrUnexpectedEOF
	}
	return err
}

func (b *Writer) header(name string, size int64) error {
	h := &tar.Header{Typeflag: tar.TypeReg, Name: name, Size: size, Mode: 0o600, ModTime: b.made, Format: tar.FormatPAX}
	if err := b.tar.WriteHeader(h); err != nil {
		return fmt.Errorf("writing a backup: %s: %w", name, err)
	}
	return nil
}

func (b *Writer) member(name string, text []byte) error {
	if err := b.header(name, int64(len(text))); err != nil {
		return err
	}
	_, err := b.tar.Write(text)
	return err
}

// Close ends the backup with the digests of all its files.
func (b *Writer) Close() error {
	text, err := json.MarshalIndent(b.sums, "", "  ")
	if err != nil {
		return err
	}
	if err := b.member(sumsName, text); err != nil {
		return err
	}
	for _, c := range []io.Closer{b.tar, b.zstd, b.sealed} {
		if err := c.Close(); err != nil {
			return fmt.Errorf("ending a backup: %w", err)
		}
	}
	return nil
}

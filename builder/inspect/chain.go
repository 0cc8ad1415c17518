package inspect

import (
	"bytes"
	"crypto/ecdsa"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"sort"
	"strings"

	"github.com/pikelet-os/pikelet/internal/shared/cmdline"
	"github.com/pikelet-os/pikelet/internal/shared/image"
	"github.com/pikelet-os/pikelet/internal/shared/initrd"
	"github.com/pikelet-os/pikelet/internal/shared/verity"
)

// read follows the slot's chain and notes where it breaks.
func (s *Slot) read(work string) {
	if s.files == nil {
		return
	}
	problem := func(format string, args ...any) { s.Problems = append(s.Problems, fmt.Sprintf(format, args...)) }
	var err error
	if s.Text, err = readFile(s.files, image.ManifestFile, image.MaxManifest); err != nil {
		problem("no image found: %v", err)
		return
	}
	if s.sign, err = readFile(s.files, image.SignatureFile, image.MaxSignature); err != nil {
		problem("%v", err)
	}
	if s.Manifest, err = image.DecodeManifest(s.Text); err != nil {
		problem("%v", err)
		return
	}
	initramfs := s.checkFiles(work, problem)
	keys, texts := keysOf(initramfs)
	s.Keys = keys
	if _, digest, err := image.Verify(s.sign, s.Text, keys); err != nil {
		problem("%v", err)
	} else {
		s.Digest = digest
		s.Signed = fmt.Sprintf("by a key of its own initramfs (sha256:%s)", strings.Join(texts, ", sha256:"))
	}
	if s.root != "" {
		s.checkRoot(problem)
	}
	for _, name := range []string{"cmdline.txt", "cmdline-a.txt"} {
		if b, err := readFile(s.files, name, 4096); err == nil {
			s.Cmdline = strings.TrimSpace(string(b))
			break
		}
	}
}

// Trust returns an error that wraps image.ErrSignature unless one of the keys
// made the slot's signature.
func (s *Slot) Trust(keys []*ecdsa.PublicKey) error {
	_, _, err := image.Verify(s.sign, s.Text, keys)
	return err
}

// checkFiles hashes every file the manifest lists, keeps a copy of the root,
// and returns the initramfs.
func (s *Slot) checkFiles(work string, problem func(string, ...any)) []byte {
	var initramfs []byte
	for _, f := range s.Manifest.Files {
		var keep bytes.Buffer
		sum := sha256.New()
		to := io.Writer(sum)
		switch f.Name {
		case image.InitramfsFile:
			to = io.MultiWriter(sum, &keep)
		case image.RootFile:
			copied, err := os.Create(filepath.Join(work, s.Name+"-"+s.Manifest.BuildID+".squashfs"))
			if err != nil {
				problem("%v", err)
				return nil
			}
			defer copied.Close()
			s.root, s.Source = copied.Name(), rootCopy(copied.Name())
			to = io.MultiWriter(sum, copied)
		case "cmdline-a.txt", "cmdline-b.txt", "cmdline-net.txt":
			if s.Name != "artifact" {
				continue // a slot holds one of them, as cmdline.txt
			}
		}
		r, size, err := s.files.open(f.Name)
		if err != nil {
			problem("%s: %v", f.Name, err)
			continue
		}
		_, err = io.Copy(to, io.LimitReader(r, f.Size+1))
		r.Close()
		if got := image.DigestOfSum(sum.Sum(nil)); err != nil || size != f.Size || got != f.Digest {
			problem("%s was changed: its digest is %s, the manifest says %s", f.Name, got, f.Digest)
		}
		if f.Name == image.InitramfsFile {
			initramfs = keep.Bytes()
		}
	}
	return initramfs
}

// Keys returns the keys an initramfs trusts. One that cannot be read has none.
func Keys(initramfs []byte) []*ecdsa.PublicKey {
	keys, _ := keysOf(initramfs)
	return keys
}

// keysOf returns the keys an initramfs trusts, and hashes of them. One that
// cannot be read has none.
func keysOf(initramfs []byte) ([]*ecdsa.PublicKey, []string) {
	b, err := initrd.ReadFile(bytes.NewReader(initramfs), strings.TrimPrefix(cmdline.InfoFile, "/"), cmdline.MaxInfo)
	if err != nil {
		return nil, nil
	}
	info, err := cmdline.DecodeInfo(b)
	if err != nil {
		return nil, nil
	}
	var keys []*ecdsa.PublicKey
	var texts []string
	for _, text := range info.Keys {
		if k, err := image.ParsePublicKey([]byte(text)); err == nil {
			keys = append(keys, k)
			sum := sha256.Sum256([]byte(text))
			texts = append(texts, hex.EncodeToString(sum[:8]))
		}
	}
	return keys, texts
}

// checkRoot computes the dm-verity root hash anew, and reads the package
// database of the root.
func (s *Slot) checkRoot(problem func(string, ...any)) {
	f, err := os.Open(s.root)
	if err != nil {
		problem("%v", err)
		return
	}
	defer f.Close()
	salt, err := hex.DecodeString(s.Manifest.Root.Salt)
	if err != nil {
		problem("decoding the verity salt: %v", err)
		return
	}
	h := verity.NewHasher(salt)
	if _, err := io.Copy(h, io.LimitReader(f, int64(s.Manifest.Root.DataBlocks)*4096)); err != nil {
		problem("hashing the root: %v", err)
		return
	}
	p, _, err := h.Tree()
	if err != nil {
		problem("hashing the root: %v", err)
		return
	}
	if got := hex.EncodeToString(p.RootHash); got != s.Manifest.Root.Hash {
		problem("the root's verity hash is %s, the manifest says %s", got, s.Manifest.Root.Hash)
	}
	root, err := openRoot(s.root)
	if err != nil {
		problem("reading the root: %v", err)
		return
	}
	defer root.Close()
	b, err := root.readFile("lib/apk/db/installed")
	if err != nil {
		b, err = root.readFile("usr/lib/apk/db/installed") // where /lib is a link, which is not followed
	}
	if err != nil {
		return // an older image, or one without packages
	}
	name := ""
	for _, line := range strings.Split(string(b), "\n") {
		if n, ok := strings.CutPrefix(line, "P:"); ok {
			name = n
		}
		if v, ok := strings.CutPrefix(line, "V:"); ok && name != "" {
			s.Packages = append(s.Packages, name+" "+v)
		}
	}
	sort.Strings(s.Packages)
}

package address

import (
	"errors"
	"fmt"
	"path/filepath"
	"strings"
	"testing"
)

func TestAddresses(t *testing.T) {
	for _, good := range []string{"/mnt/nas", "sftp://u@h/backups", "sftp://u@h:2222/~/b", "s3://bucket", "s3://my-bucket/homes/attic"} {
		if _, err := Check(good); err != nil {
			t.Errorf("%s: %v", good, err)
		}
	}
	for _, bad := range []string{"", "nas", "../x", "sftp://h/b", "sftp://u:hunter22@h/b", "sftp://u@h", "s3://", "s3://B/x",
		"s3://key:hunter22@bucket",
		"https://h/b", "s3://bucket/a?x=y", "sftp://u:hunter22@h:x/b"} {
		_, err := Check(bad)
		if !errors.Is(err, ErrAddress) || strings.Contains(fmt.Sprint(err), "hunter22") {
			t.Errorf("%s: got error %v, want %v", bad, err, ErrAddress)
		}
	}
}

func FuzzNames(f *testing.F) {
	f.Add("attic-20261130T030000Z.backup")
	f.Add("a-b-20261130T030000Z.backup")
	f.Add("../20261130T030000Z.backup")
	f.Fuzz(func(t *testing.T, name string) {
		node, made, ok := ParseName(name)
		if !ok {
			return
		}
		if again := NameOf(node, made); again != name || strings.ContainsAny(name, "/\\") || filepath.Base(name) != name {
			t.Errorf("%q is read as %q of %v, which is %q", name, node, made, again)
		}
	})
}

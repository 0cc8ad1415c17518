package main

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
)

func TestFindSource(t *testing.T) {
	for what, c := range map[string]struct {
		file, text string
		want       source
	}{
		"stanza": {"debian.sources", "# a comment\nTypes: deb\nURIs: http://mirror.example/debian\nSuites: bookworm bookworm-updates\n" +
			"Components: main\nSigned-By: /k.gpg\n\nTypes: deb\nURIs: http://other.example\nSuites: nodistro\nComponents: main\n",
			source{"http://mirror.example/debian", "/k.gpg"}},
		"security first": {"debian.sources", "Types: deb\nURIs: http://sec.example\nSuites: bookworm-security\nComponents: main\n\nTypes: deb\n" +
			"URIs: http://mirror.example/debian\nSuites: stable\nComponents: main contrib\n",
			source{"http://mirror.example/debian", ""}},
		"the very suite first": {"a.list", "deb http://mirror.example/debian bookworm main\ndeb http://other.example/debian trixie main " +
			"non-free-firmware\n",
			source{"http://other.example/debian", ""}},
		"line": {"a.list", "deb-src http://x bookworm main\ndeb http://mirror.example/debian trixie main\n",
			source{"http://mirror.example/debian", ""}},
		"line, options": {"a.list", "deb [arch=amd64 signed-by=/k.gpg] http://mirror.example/debian bookworm main\n",
			source{"http://mirror.example/debian", "/k.gpg"}},
	} {
		root := t.TempDir()
		dir := filepath.Join(root, "etc/apt/sources.list.d")
		os.MkdirAll(dir, 0o755)
		os.WriteFile(filepath.Join(dir, c.file), []byte(c.text), 0o644)
		if got, err := findSource(root); err != nil || got != c.want {
			t.Errorf("%s: %+v, %v; want %+v", what, got, err, c.want)
		}
	}
	root := t.TempDir()
	os.MkdirAll(filepath.Join(root, "etc/apt"), 0o755)
	os.WriteFile(filepath.Join(root, "etc/apt/sources.list"), []byte("deb http://ubuntu.example noble main\n"), 0o644)
	if _, err := findSource(root); err == nil || !strings.Contains(err.Error(), "add a line such as") {
		t.Errorf("no Debian source: %v", err)
	}
}

func TestApkVersion(t *testing.T) {
	for debian, want := range map[string]string{
		"1:1.37.0-6+b9": "1.37.0-r6", "2.41-12+deb13u4": "2.41-r12", "1.20240424+ds-6": "1.20240424-r6", "6.12.107-1": "6.12.107-r1",
		"20250419": "20250419-r0", "1.7.24~ds1-6+deb13u1": "1.7.24-r6",
	} {
		if got := apkVersion(debian); got != want {
			t.Errorf("%s: %s, want %s", debian, got, want)
		}
	}
}

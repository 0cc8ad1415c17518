package importer

import (
	"bytes"
	"compress/gzip"
	"encoding/base64"
	"errors"
	"fmt"
	"io"
	"path"
	"regexp"
	"strings"
	"unicode/utf8"

	"go.yaml.in/yaml/v3"

	"github.com/pikelet-os/pikelet/internal/shared/nodeconfig"
)

// written is an entry of write_files, in cloud-init's form and k3OS'.
type written struct {
	path, content, mode, owner string
	base                       int // the line before the content's first
	at                         place
}

// writeFiles reads write_files.
func (d *draft) writeFiles(n *nodeconfig.Node, list value) {
	for _, item := range list.items() {
		w := written{at: item.at()}
		encoding, raw := "", value{}
		for _, e := range item.entries() {
			switch e.key {
			case "path":
				w.path, _ = e.plain("path of a file")
			case "content":
				raw = e.value
			case "permissions":
				w.mode = strings.TrimPrefix(strings.TrimSpace(e.text()), "0o")
			case "owner":
				w.owner, _, _ = strings.Cut(strings.TrimSpace(e.text()), ":")
			case "encoding":
				encoding = strings.ToLower(strings.TrimSpace(e.text()))
			default:
				d.note(e.at, "write_files: "+e.key, "files of a node config are whole, and written at each boot")
			}
		}
		if w.path == "" || raw.Node == nil {
			d.note(w.at, "write_files", "an entry without path or content")
			continue
		}
		if w.base = raw.inner(); raw.vault() || raw.Kind != yaml.ScalarNode {
			raw.plain(w.path)
			continue
		}
		text, err := decodeContent(raw.Value, encoding)
		if err != nil {
			d.notef(w.at, w.path, "%v", err)
			continue
		}
		w.content = text
		d.file(n, w)
	}
}

// decodeContent returns the text of a file whose content is encoded.
func decodeContent(text, encoding string) (string, error) {
	var b []byte
	var err error
	switch encoding {
	case "", "text/plain":
		return text, nil
	case "b64", "base64", "gz+b64", "gz+base64", "gzip+b64", "gzip+base64":
		if b, err = base64.StdEncoding.DecodeString(strings.Join(strings.Fields(text), "")); err != nil {
			return "", errors.New("the content is no base64")
		}
		if !strings.HasPrefix(encoding, "gz") {
			break
		}
		z, err := gzip.NewReader(bytes.NewReader(b))
		if err != nil {
			return "", errors.New("the content is no gzip")
		}
		if b, err = io.ReadAll(io.LimitReader(z, maxFile+1)); err != nil || len(b) > maxFile {
			return "", errors.New("the content is damaged, or too large")
		}
	default:
		return "", fmt.Errorf("encoding %.20q is unknown", encoding)
	}
	if !utf8.Valid(b) {
		return "", errors.New("the content is no text; bring it in a layer of the image")
	}
	return string(b), nil
}

// Places of files that a node config has other fields for, or none.
var (
	sysctlFile  = regexp.MustCompile(`^/etc/sysctl(\.d/[^/]+)?\.conf$`)
	modulesFile = regexp.MustCompile(`^/etc/(modules-load\.d/[^/]+\.conf|modules)$`)
	notOurs     = []struct{ prefix, why string }{
		{"/var/lib/rancher/k3os/", "steers k3OS alone"},
		{"/etc/fstab", "volume says where k3s and pods keep their data"},
		{"/etc/hosts", "a node writes it itself"},
		{"/etc/local.d/", "a script that runs at boot; a service in an overlay does that"},
		{"/etc/systemd/", "nodes have OpenRC; a service in an overlay does that"},
		{"/etc/netplan/", "network.interfaces says that"},
		{"/etc/NetworkManager/", "network.interfaces and network.wifi say that"},
		{"/etc/apt/", "nodes have no apt; packages are part of the image"},
		{"/etc/sudoers", "nodes have no sudo; users[].admin says who is an administrator"},
		{"/etc/cron", "nodes have no cron; a CronJob of the cluster or a service in an overlay does that"},
		{"/etc/ssh/sshd_config", "the SSH server of a node takes keys alone, and has no such file"},
		{"/boot/", "the image has its own boot files; config and cmdline of its spec change them"},
		{"/usr/", "belongs to the image; bring it in an overlay"},
		{"/opt/", "belongs to the image; bring it in an overlay"},
	}
	secretWords = regexp.MustCompile(`(?i)(password|passwd|secret|token|private.key|passphrase|api.?key|BEGIN [A-Z ]*PRIVATE)`)
)

// file reads one file that a node is to have.
func (d *draft) file(n *nodeconfig.Node, w written) {
	switch {
	case w.path == "/etc/rancher/k3s/config.yaml" ||
		path.Dir(w.path) == "/etc/rancher/k3s/config.yaml.d" && path.Ext(w.path) == ".yaml":
		d.configFile(n, w.at.file, w.content, w.base)
		return
	case w.path == "/etc/rancher/k3s/registries.yaml":
		d.registriesFile(n, w.at.file, w.content, w.base)
		return
	case sysctlFile.MatchString(w.path):
		d.sysctls(n, w)
		return
	case modulesFile.MatchString(w.path):
		for i, line := range strings.Split(w.content, "\n") {
			if line = strings.TrimSpace(line); line != "" && line[0] != '#' {
				d.try(n, "module", place{w.at.file, w.base + i + 1}, func(c *nodeconfig.Config) { c.Modules = append(c.Modules, line) })
			}
		}
		return
	}
	for _, other := range notOurs {
		if strings.HasPrefix(w.path, other.prefix) {
			d.note(w.at, w.path, other.why)
			return
		}
	}
	if strings.Contains(holes(w.content), hole) {
		d.note(w.at, w.path, "its content has a template, which is not evaluated; add it to files with the values in place")
		return
	}
	f := nodeconfig.File{Path: w.path, Content: w.content, Owner: w.owner}
	if f.Owner == "root" {
		f.Owner = ""
	}
	if mode := strings.TrimLeft(w.mode, "0"); len(mode) == 3 && mode != "644" {
		f.Mode = "0" + mode
	}
	if secretWords.MatchString(w.content) || strings.HasSuffix(f.Mode, "00") {
		f.Secret, f.Content, f.Mode = true, "", ""
		d.secret(&f.Content, "files: "+w.path, w.content, w.at)
		if f.Content == "" {
			return
		}
	}
	d.try(n, w.path, w.at, func(c *nodeconfig.Config) { c.Files = append(c.Files, f) })
}

func (d *draft) sysctls(n *nodeconfig.Node, w written) {
	for i, line := range strings.Split(w.content, "\n") {
		if line = strings.TrimSpace(line); line == "" || line[0] == '#' || line[0] == ';' {
			continue
		}
		key, val, _ := strings.Cut(line, "=")
		key = strings.TrimPrefix(strings.TrimSpace(key), "-")
		d.sysctl(n, key, strings.TrimSpace(val), place{w.at.file, w.base + i + 1})
	}
}

func (d *draft) sysctl(n *nodeconfig.Node, key, val string, at place) {
	if strings.Contains(holes(val), hole) {
		d.note(at, "sysctl "+key, "a template, which is not evaluated")
		return
	}
	d.try(n, "sysctl", at, func(c *nodeconfig.Config) {
		if c.Sysctls == nil {
			c.Sysctls = map[string]string{}
		}
		c.Sysctls[key] = val
	})
}

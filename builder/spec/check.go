package spec

import (
	"errors"
	"fmt"
	"maps"
	"net/url"
	"os"
	"path"
	"path/filepath"
	"regexp"
	"slices"
	"sort"
	"strconv"
	"strings"
	"time"

	"github.com/pikelet-os/pikelet/boards"
	"github.com/pikelet-os/pikelet/builder/fetch"
	"github.com/pikelet-os/pikelet/internal/shared/disk"
	"github.com/pikelet-os/pikelet/internal/shared/hint"
	"github.com/pikelet-os/pikelet/internal/shared/image"
	"github.com/pikelet-os/pikelet/internal/shared/squashfs"
	"github.com/pikelet-os/pikelet/internal/shared/yamlcheck"
	"github.com/pikelet-os/pikelet/layers"
	"github.com/pikelet-os/pikelet/layers/apk"
)

// checker is what gathers mistakes, with what a spec can do wrong.
type checker struct{ *yamlcheck.Checker }

var (
	nameForm    = regexp.MustCompile(`^[a-z0-9]([a-z0-9-]*[a-z0-9])?$`)
	ownerForm   = regexp.MustCompile(`^[A-Za-z0-9_.-]+:[A-Za-z0-9_.-]+$`)
	releaseForm = regexp.MustCompile(`^\d{1,9}(\.\d{1,9}){0,3}$`)
)

// arch is what images are built for, in Alpine's words.
const arch = "aarch64"

// maxConfigLine is what old firmware reads of a line of config.txt; the rest
// is dropped without a word (docs/platform.md 1.3).
const maxConfigLine = 78

func (c *checker) check(i *Image) {
	if !nameForm.MatchString(i.Name) {
		c.Add("name", "%q: want lower-case letters, digits and dashes, such as homelab", i.Name)
	}
	if !nameForm.MatchString(i.Stream) && i.Stream != i.Name {
		c.Add("stream", "%q: want lower-case letters, digits and dashes", i.Stream)
	}
	if !releaseForm.MatchString(i.Release) {
		c.Add("release", "%q: want numbers with dots, such as 1.0", i.Release)
	}
	if len(i.Release) > 1 && i.Release[0] == '0' && i.Release[1] != '.' {
		c.Add("release", "%q: leave out the zero in front: it counts as %s", i.Release, strings.TrimLeft(i.Release, "0"))
	}
	if !regexp.MustCompile(`^\d+\.\d+$`).MatchString(i.Alpine) {
		c.Add("alpine", "%q: want an Alpine release, such as 3.23 (in quotes, or YAML reads a number)", i.Alpine)
	}
	for n, b := range i.Boards {
		if _, err := boards.Find(b); err != nil {
			c.Add(fmt.Sprintf("boards[%d]", n), "%v", err)
		}
	}
	c.checkSources(i)
	for level := range i.Services {
		switch level {
		case "sysinit", "boot", "default", "shutdown":
		default:
			c.Add("services."+level, "no such runlevel; there are sysinit, boot, default and shutdown")
		}
	}
	for n, w := range i.Kernel.Words {
		if w == "" || strings.ContainsAny(w, " \t\n\"") {
			c.Add(fmt.Sprintf("kernel.words[%d]", n), "%q: one word each, without blanks or quotes", w)
		}
	}
	c.checkConfig(i)
	c.checkNode(i)
	if i.Console != "" && i.Console != ConsoleRoot {
		c.Add("console", "%q: want root, or nothing for a console without a way in", i.Console)
	}
	if s := int64(i.SlotSize); s < 34*disk.MiB || s > 64<<30 || s%disk.MiB != 0 {
		c.Add("slot-size", "%d MiB: want at least 34MiB and at most 64GiB", s/disk.MiB)
	}
}

func (c *checker) checkSources(i *Image) {
	if len(i.Repositories) == 0 {
		c.Add("repositories", "none; name at least one, with url and keys")
	}
	for n, r := range i.Repositories {
		field := fmt.Sprintf("repositories[%d]", n)
		if strings.Contains(r.URL, "{mirror}") {
			c.Add(field+".url", "the address has {mirror}, but the spec has no mirror: ADDRESS")
		}
		if r.URL == "" {
			c.Add(field+".url", "missing; want a directory or an http(s) address")
		}
		if _, err := os.Stat(i.Path(r.URL)); err != nil && r.URL != "" {
			if err := fetch.CheckAddress(r.URL, arch); err != nil {
				c.Add(field+".url", "%s", strings.Join(append([]string{err.Error()}, hint.Of(err)...), "; "))
			}
		}
		if len(r.Keys) == 0 {
			c.Add(field+".keys", "missing; name the public keys that may sign it, such as Alpine's from /etc/apk/keys")
		}
		i.Repositories[n].Keys = c.keyFiles(i, field, r.Keys)
	}
	if u, err := url.Parse(i.Mirror); err == nil && u.Host == mirrorPlaceholder {
		c.Add("mirror", "%s stands for the host of your Alpine mirror; put its name there", mirrorPlaceholder)
	}
	if len(i.Packages) == 0 {
		c.Add("packages", "none; alpine-base and openrc are the least")
	}
	for n, p := range i.Packages {
		if p == "" {
			c.Add(fmt.Sprintf("packages[%d]", n), "empty; a name that begins with ! needs quotes in YAML, as in \"!busybox\"")
			continue
		}
		if _, err := apk.ParseDep(p); err != nil {
			c.Add(fmt.Sprintf("packages[%d]", n), "%v", err)
		}
	}
	for n, l := range i.Layers {
		c.checkLayer(i, fmt.Sprintf("layers[%d]", n), l)
	}
	for n, o := range i.Overlays {
		if o.Name == "" {
			c.Add(fmt.Sprintf("overlays[%d]", n), "want the name of an overlay, or a directory with an overlay.yaml")
		}
		c.checkPlaceholders(n, o)
	}
}

func (c *checker) checkLayer(i *Image, field string, l Layer) {
	kinds := 0
	for _, kind := range []string{l.Folder, l.Tar, l.OCI} {
		if kind != "" {
			kinds++
		}
	}
	if kinds != 1 {
		c.Add(field, "want one of folder: PATH, tar: FILE and oci: REFERENCE")
		return
	}
	if l.Folder != "" {
		if st, err := os.Stat(i.Path(l.Folder)); err != nil || !st.IsDir() {
			c.Add(field+".folder", "directory %s not found", l.Folder)
		}
	}
	if l.Tar != "" {
		if st, err := os.Stat(i.Path(l.Tar)); err != nil || st.IsDir() {
			c.Add(field+".tar", "no file %s", l.Tar)
		}
	}
	if l.Folder == "" && len(l.Rules) > 0 {
		c.Add(field+".rules", "only directories take rules; archives and images say whose their files are")
	}
	for n, r := range l.Rules {
		at := fmt.Sprintf("%s.rules[%d]", field, n)
		if _, err := path.Match(strings.TrimSuffix(r.Path, "/**"), ""); err != nil || r.Path == "" {
			c.Add(at+".path", "%q: want a pattern such as etc/ssl/private/*", r.Path)
		}
		if mode, err := strconv.ParseUint(r.Mode, 8, 32); r.Mode != "" && (err != nil || mode > 0o7777) {
			c.Add(at+".mode", "%q: want octal permissions such as \"0600\"", r.Mode)
		}
		if r.Owner != "" && !ownerForm.MatchString(r.Owner) {
			c.Add(at+".owner", "%q: want USER:GROUP, by name or number", r.Owner)
		}
		for _, part := range strings.Split(r.Owner, ":") {
			if n, err := strconv.ParseInt(part, 10, 64); (err == nil || errors.Is(err, strconv.ErrRange)) && (n < 0 || n > layers.MaxID) {
				c.Add(at+".owner", "%q: want numbers from 0 to %d", r.Owner, int64(layers.MaxID))
			}
		}
	}
}

// checkNode looks at what the image tells nodes.
func (c *checker) checkNode(i *Image) {
	if _, err := squashfs.FindCompression(i.Compression); err != nil {
		c.Add("compression", "%v", err)
	}
	if d, err := time.ParseDuration(i.Watchdog); i.Watchdog != WatchdogOff &&
		(err != nil || d < 6*time.Second || d > 15*time.Second || d%time.Second != 0) {
		c.Add("watchdog", "%q: want 6s to 15s in whole seconds (the hardware of a Pi counts no further), or off", i.Watchdog)
	}
	if i.Health.Soak >= i.Health.Deadline {
		c.Add("health.soak", "%s is not shorter than the deadline, %s", time.Duration(i.Health.Soak), time.Duration(i.Health.Deadline))
	}
	if s := int64(i.StateSize); s < disk.StateInImage || s%disk.MiB != 0 || s > 1<<40 {
		c.Add("state-size", "%d MiB: want at least %dMiB", s/disk.MiB, int64(disk.StateInImage/disk.MiB))
	}
	if i.Inventory != "" {
		if _, err := os.Stat(i.Path(i.Inventory)); err != nil {
			c.Add("inventory", "no file %s", i.Inventory)
		}
	}
	for n, key := range i.Keys {
		if st, err := os.Stat(i.Path(key)); err != nil {
			c.Add(fmt.Sprintf("keys[%d]", n), "no file %s", key)
		} else if st.IsDir() {
			c.Add(fmt.Sprintf("keys[%d]", n), "%s is a directory; name the files with the public keys in it", key)
		}
	}
	if i.Channel != "" {
		if err := image.CheckReference(i.Channel); err != nil {
			c.Add("channel", "%v", err)
		}
	}
	var names []string
	for name := range i.IDs {
		names = append(names, name)
	}
	sort.Strings(names)
	for _, name := range names {
		if id := i.IDs[name]; id < 1 || id > 65532 {
			c.Add("ids."+name, "%d: want a number from 1 to 65532", id)
		}
	}
}

// mirrorPlaceholder is what pikelet init leaves for people to replace.
const mirrorPlaceholder = "MIRROR"

// keyPlaceholder matches the SSH keys that pikelet init and pikelet node init
// write as examples: the second is an Ed25519 key of zeros.
var keyPlaceholder = regexp.MustCompile(`AAAA\.\.\.|AAAAC3NzaC1lZDI1NTE5AAAAIA{43}`)

// checkPlaceholders refuses keys that are examples: with them alone, no one could
// log in to a node of that image.
func (c *checker) checkPlaceholders(n int, o Overlay) {
	for _, name := range slices.Sorted(maps.Keys(o.With)) {
		if keyPlaceholder.MatchString(o.With[name]) {
			c.Add(fmt.Sprintf("overlays[%d].with.%s", n, name),
				"this is the example key of a new spec; put in your own public key, such as the line in ~/.ssh/id_ed25519.pub")
		}
	}
}

// keyFiles returns the files with the public keys of a repository: those that are
// named, and those in directories that are named.
func (c *checker) keyFiles(i *Image, field string, names []string) []string {
	var files []string
	for k, name := range names {
		field := fmt.Sprintf("%s.keys[%d]", field, k)
		st, err := os.Stat(i.Path(name))
		switch {
		case err != nil:
			c.Add(field, "no file %s", name)
			continue
		case !st.IsDir():
			files = append(files, name)
			continue
		}
		in, err := filepath.Glob(filepath.Join(i.Path(name), "*.pub"))
		if err != nil || len(in) == 0 {
			c.Add(field, "the directory %s holds no file that ends in .pub", name)
		}
		for _, f := range in {
			files = append(files, filepath.Join(name, filepath.Base(f)))
		}
	}
	return files
}

func (c *checker) checkConfig(i *Image) {
	var names []string
	for name := range i.Config {
		names = append(names, name)
	}
	sort.Strings(names)
	for _, name := range names {
		if _, err := boards.Find(name); err != nil && name != "all" {
			c.Add("config."+name, "%v, or all", err)
		}
		cfg := i.Config[name]
		for n, l := range cfg.Lines {
			c.checkLine(fmt.Sprintf("config.%s.lines[%d]", name, n), l)
		}
		for n, o := range cfg.Overlays {
			c.checkLine(fmt.Sprintf("config.%s.overlays[%d]", name, n), "dtoverlay="+o)
		}
	}
}

func (c *checker) checkLine(field, l string) {
	switch {
	case len(l) > maxConfigLine:
		c.Add(field, "%d characters; the firmware drops what is behind the %dth", len(l), maxConfigLine)
	case strings.ContainsAny(l, "\n\r") || strings.HasPrefix(l, "["):
		c.Add(field, "%q: want a single line, without a section of its own", l)
	}
	for _, own := range []string{"kernel=", "initramfs", "cmdline=", "arm_64bit=", "os_prefix=", "include"} {
		if strings.HasPrefix(l, own) {
			c.Add(field, "%s is the builder's to write", strings.TrimSuffix(own, "="))
		}
	}
}

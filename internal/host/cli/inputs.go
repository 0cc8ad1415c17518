package cli

import (
	"errors"
	"strings"

	"github.com/pikelet-os/pikelet/builder"
	"github.com/pikelet-os/pikelet/builder/fetch"
	"github.com/pikelet-os/pikelet/builder/lock"
	"github.com/pikelet-os/pikelet/internal/shared/hint"
)

// apkIndex is the file name of a repository's index.
const apkIndex = "APKINDEX.tar.gz"

// inputHint adds to an error of a build, a lock or a vendor which command, or which
// line of the spec, helps: where the lock is outdated, or an input is missing.
func inputHint(err error, spec string) error {
	if errors.Is(err, lock.ErrOutdated) {
		return hint.With(err, "bring the lock up to date with: pikelet lock "+spec)
	}
	var missing *fetch.Missing
	if !errors.As(err, &missing) {
		return err
	}
	remote := fetch.IsRemote(missing.What)
	var advice string
	switch {
	case missing.Offline:
		advice = "build once with the network, or keep the inputs with: pikelet vendor " + spec + " DIR"
	case strings.HasSuffix(missing.What, ".apk") && remote:
		advice = "mirrors drop superseded packages: pikelet lock " + spec + " chooses anew, and pikelet vendor " + spec + " DIR keeps copies"
	case strings.HasSuffix(missing.What, ".apk"):
		advice = "pikelet lock " + spec + " chooses among the packages that are there"
	case strings.HasSuffix(missing.What, apkIndex) && remote:
		advice = "check the repository's url in " + spec + ", and mirror and alpine if it is made of them: " +
			builder.Arch + "/" + apkIndex + " is added to it"
	case strings.HasSuffix(missing.What, apkIndex):
		advice = "the repository's url in " + spec + " is taken for a directory: one on a server begins with http:// or https://"
	case remote:
		advice = "check the address: the file may have been withdrawn"
	default:
		advice = "that is taken for a file on this computer: the address of one on a server begins with http:// or https://"
	}
	return hint.With(err, advice)
}

// Command s3 is two servers of S3 with nothing but what tests use of them: versitygw,
// which keeps objects and versions of them in a directory, has one account, locks
// objects, and speaks TLS where there is a certificate; and gofakes3, which keeps
// them in memory and lets anybody in.
//
// It is a module of its own, so that none of this is among Pikelet's dependencies.
package main

import (
	"context"
	"flag"
	"fmt"
	"net/http"
	"os"
	"path/filepath"

	"github.com/johannesboyne/gofakes3"
	"github.com/johannesboyne/gofakes3/backend/s3mem"
	"github.com/versity/versitygw/auth"
	"github.com/versity/versitygw/backend/meta"
	"github.com/versity/versitygw/backend/posix"
	"github.com/versity/versitygw/embedgw"
)

func main() {
	dir := flag.String("dir", "", "directory of the objects; without it gofakes3 keeps them in memory")
	listen := flag.String("listen", "127.0.0.1:9000", "address")
	access := flag.String("access", "access", "name of the account")
	secret := flag.String("secret", "secret-of-tests", "its secret")
	region := flag.String("region", "us-east-1", "region")
	cert := flag.String("cert", "", "certificate, PEM")
	key := flag.String("key", "", "its key, PEM")
	flag.Parse()
	if *dir == "" {
		fmt.Fprintln(os.Stderr, "s3:", http.ListenAndServe(*listen, gofakes3.New(s3mem.New()).Server()))
		os.Exit(1)
	}
	if err := run(*dir, embedgw.Config{
		RootUserAccess: *access, RootUserSecret: *secret, Region: *region, Ports: []string{*listen}, CertFile: *cert, KeyFile: *key,
		MaxConnections: 256, MaxRequests: 256, MultipartMaxParts: 10_000, Quiet: true, KeepAlive: true,
		IAMService: auth.NewIAMServiceSingle(auth.Account{Access: *access, Secret: *secret, Role: auth.RoleAdmin}),
	}); err != nil {
		fmt.Fprintln(os.Stderr, "s3:", err)
		os.Exit(1)
	}
}

func run(dir string, c embedgw.Config) error {
	root, versions, side := filepath.Join(dir, "objects"), filepath.Join(dir, "versions"), filepath.Join(dir, "attributes")
	for _, d := range []string{root, versions, side} {
		if err := os.MkdirAll(d, 0o755); err != nil {
			return err
		}
	}
	// Attributes beside the objects: not every filesystem that tests run on has
	// attributes of its own.
	attributes, err := meta.NewSideCar(side)
	if err != nil {
		return err
	}
	be, err := posix.New(root, attributes, posix.PosixOpts{VersioningDir: versions, SideCarDir: side, ForceNoTmpFile: true, Concurrency: 64})
	if err != nil {
		return err
	}
	return embedgw.RunVersityGW(context.Background(), be, &c)
}

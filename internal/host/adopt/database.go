package adopt

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"net/url"

	_ "modernc.org/sqlite" // the driver

	"github.com/pikelet-os/pikelet/internal/shared/hint"
)

// stateDB is the name of k3s' datastore.
const stateDB = "state.db"

// settle brings what the write-ahead log of a copied datastore holds into its file,
// and checks it: a database of SQLite that is whole, and that kine wrote.
func settle(ctx context.Context, file string) (err error) {
	u := url.URL{Scheme: "file", OmitHost: true, Path: file, RawQuery: "mode=rw"}
	db, err := sql.Open("sqlite", u.String())
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, db.Close()) }()
	db.SetMaxOpenConns(1)
	damaged := func(err error) error {
		return hint.With(fmt.Errorf("checking the copied datastore: %w", err),
			"nothing was written; adopt the server again, or stop k3s for the copy with --stop")
	}
	busy, said, rows := 0, "", 0
	var log, moved any
	if err := db.QueryRowContext(ctx, "PRAGMA wal_checkpoint(TRUNCATE)").Scan(&busy, &log, &moved); err != nil {
		return damaged(err)
	}
	if err := db.QueryRowContext(ctx, "PRAGMA journal_mode=DELETE").Scan(&said); err != nil {
		return damaged(err)
	}
	if err := db.QueryRowContext(ctx, "PRAGMA integrity_check(1)").Scan(&said); err != nil {
		return damaged(err)
	}
	if said != "ok" || busy != 0 {
		return damaged(errors.New(said))
	}
	if err := db.QueryRowContext(ctx, "SELECT count(*) FROM (SELECT 1 FROM kine LIMIT 1)").Scan(&rows); err != nil {
		return damaged(err)
	}
	if rows == 0 {
		return damaged(errors.New("the datastore is empty"))
	}
	return nil
}

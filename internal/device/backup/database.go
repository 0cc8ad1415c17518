package backup

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"net/url"
	"path/filepath"

	"golang.org/x/sys/unix"
	_ "modernc.org/sqlite" // the driver

	"github.com/pikelet-os/pikelet/internal/shared/hint"
)

// copyDatabase copies a SQLite database that others write to. The copy is that of
// one moment, and holds no trace of rows that were deleted
// (https://www.sqlite.org/lang_vacuum.html#vacuuminto).
func copyDatabase(ctx context.Context, to, from string) (err error) {
	size := databaseSize(from)
	if size == 0 {
		return hint.With(fmt.Errorf("copying the datastore: there is no %s", from),
			"k3s makes it when it starts; a datastore elsewhere (datastore-endpoint) is backed up there")
	}
	if err := room(filepath.Dir(to), size); err != nil {
		return err
	}
	db, err := openDatabase(from, "rw")
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, db.Close()) }()
	if _, err := db.ExecContext(ctx, "VACUUM INTO ?", to); err != nil {
		return fmt.Errorf("copying the datastore %s: %w", from, err)
	}
	return nil
}

// checkDatabase reports why a SQLite database is not whole, or not k3s' datastore.
func checkDatabase(ctx context.Context, name string) (err error) {
	db, err := openDatabase(name, "ro")
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, db.Close()) }()
	said := ""
	if err := db.QueryRowContext(ctx, "PRAGMA integrity_check(1)").Scan(&said); err != nil {
		return fmt.Errorf("checking the datastore: %w", err)
	}
	if said != "ok" {
		return fmt.Errorf("checking the datastore: %s", said)
	}
	rows := 0
	if err := db.QueryRowContext(ctx, "SELECT count(*) FROM (SELECT 1 FROM kine LIMIT 1)").Scan(&rows); err != nil {
		return fmt.Errorf("checking the datastore: %w", err)
	}
	if rows == 0 {
		return errors.New("checking the datastore: it is empty")
	}
	return nil
}

// hasObject reports whether a datastore holds an object by its key, as kine keeps it:
// a row for each revision, the last of which may say that it was deleted.
func hasObject(ctx context.Context, name, key string) (has bool, err error) {
	db, err := openDatabase(name, "ro")
	if err != nil {
		return false, err
	}
	defer func() { err = errors.Join(err, db.Close()) }()
	deleted := 0
	err = db.QueryRowContext(ctx, "SELECT deleted FROM kine WHERE name = ? ORDER BY id DESC LIMIT 1", key).Scan(&deleted)
	if errors.Is(err, sql.ErrNoRows) {
		return false, nil
	}
	return err == nil && deleted == 0, err
}

func openDatabase(name, mode string) (*sql.DB, error) {
	u := url.URL{Scheme: "file", OmitHost: true, Path: name, RawQuery: "mode=" + mode + "&_pragma=busy_timeout(" + patience + ")" + pragmas}
	db, err := sql.Open("sqlite", u.String())
	if err != nil {
		return nil, fmt.Errorf("opening the datastore %s: %w", name, err)
	}
	db.SetMaxOpenConns(1)
	return db, nil
}

// room reports whether a filesystem has room for some bytes more.
func room(dir string, size int64) error {
	var st unix.Statfs_t
	if err := unix.Statfs(dir, &st); err != nil {
		return err
	}
	if free := int64(st.Bavail) * st.Bsize; free < size+spare {
		return hint.With(fmt.Errorf("too little space on the volume: got %d MB, want %d MB and %d MB to spare",
			free/1e6, size/1e6, spare/1_000_000), "a larger volume, or fewer copies of the datastore (datastore.copies)")
	}
	return nil
}

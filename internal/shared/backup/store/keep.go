package store

import (
	"context"
	"fmt"
	"slices"
	"time"

	"github.com/pikelet-os/pikelet/internal/shared/backup/address"
)

// Keep says which backups of a node are kept, as nodeconfig.Keep does.
type Keep struct{ Last, Daily, Weekly, Monthly int }

// Superfluous returns those of a node's backups that need not be kept, the oldest
// first, of a list that List returned. The newest is always kept, and so is good, the one that was
// read back last.
func (k Keep) Superfluous(list []Object, node, good string) (names []string) {
	if k == (Keep{}) {
		return nil
	}
	newest := true
	rules := []struct {
		left int
		of   func(time.Time) string
		last string
	}{
		{left: k.Last, of: func(t time.Time) string { return t.Format(time.RFC3339) }},
		{left: k.Daily, of: func(t time.Time) string { return t.Format("2006-01-02") }},
		{left: k.Weekly, of: func(t time.Time) string { y, w := t.ISOWeek(); return fmt.Sprint(y, w) }},
		{left: k.Monthly, of: func(t time.Time) string { return t.Format("2006-01") }},
	}
	for n := len(list) - 1; n >= 0; n-- {
		o := list[n]
		if o.Node != node {
			continue
		}
		kept := newest || o.Name == good
		newest = false
		for i := range rules {
			r := &rules[i]
			if period := r.of(o.Made.UTC()); r.left > 0 && period != r.last {
				r.left, r.last, kept = r.left-1, period, true
			}
		}
		if !kept {
			names = append(names, o.Name)
		}
	}
	slices.Reverse(names)
	return names
}

// Prune deletes what of a node's backups need not be kept, and what its uploads left
// that were given up. Backups younger than lock are left alone. It returns the names
// of what it deleted.
func Prune(ctx context.Context, s Store, k Keep, node, good string, lock time.Duration, now time.Time) (deleted []string, err error) {
	list, err := s.List(ctx)
	if err != nil {
		return nil, fmt.Errorf("listing backups: %w", err)
	}
	for _, name := range k.Superfluous(list, node, good) {
		if _, made, _ := address.ParseName(name); lock > 0 && now.Before(made.Add(lock)) {
			continue
		}
		if err := s.Delete(ctx, name); err != nil {
			return deleted, fmt.Errorf("deleting %s: %w", name, err)
		}
		deleted = append(deleted, name)
	}
	return deleted, s.Tidy(ctx, node)
}

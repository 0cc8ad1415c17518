package store

import (
	"context"
	"fmt"
	"slices"
	"time"
)

// Keep says which backups of a node are kept, in the words of restic
// (https://restic.readthedocs.io/en/stable/060_forget.html): the last ones, and the
// last one of each of so many days, weeks or months that have any, in UTC. Its zero
// value keeps all.
type Keep struct {
	// Last is how many of the last backups are kept.
	Last int `yaml:"last,omitempty" jsonschema:"minimum=0"`
	// Daily is of how many days the last one is kept.
	Daily int `yaml:"daily,omitempty" jsonschema:"minimum=0"`
	// Weekly is of how many weeks the last one is kept.
	Weekly int `yaml:"weekly,omitempty" jsonschema:"minimum=0"`
	// Monthly is of how many months the last one is kept.
	Monthly int `yaml:"monthly,omitempty" jsonschema:"minimum=0"`
}

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
		{left: k.Last, of: func(t time.Time) string { return t.Format(stamp) }},
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
		if _, made, _ := ParseName(name); lock > 0 && now.Before(made.Add(lock)) {
			continue
		}
		if err := s.Delete(ctx, name); err != nil {
			return deleted, fmt.Errorf("deleting %s: %w", name, err)
		}
		deleted = append(deleted, name)
	}
	return deleted, s.Tidy(ctx, node)
}

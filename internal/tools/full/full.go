// Package full reports whether tests do all they can, as make test-all has them
// do, or what keeps each promise at the least cost, as make test does.
package full

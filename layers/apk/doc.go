// Package apk reads and writes Alpine packages and their indexes, checks
// their signatures, and chooses the packages a list of names needs.
//
// Both formats are read, 2 (docs/platform.md 5.2, 5.3) and 3 (5.9), and told apart
// by their first bytes; what is written is of format 2. Nothing inside a package
// is ever executed.
package apk

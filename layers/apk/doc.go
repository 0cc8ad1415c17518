// Package apk reads and writes Alpine packages and their indexes, checks
// their signatures, and chooses the packages a list of names needs.
//
// Only format 2 is known (docs/platform.md 5.2): it is what every Alpine
// release up to 3.24 publishes. Format 3 (ADB) is recognised and refused by
// name. Nothing inside a package is ever executed.
package apk

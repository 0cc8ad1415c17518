// Package tools holds what make runs beside the go command: install.sh, which
// installs Debian packages; in testlog what prints a run of tests; in mutants
// what takes checks out one by one; and in registry, a module of its own, the
// registry that tests run.
package tools

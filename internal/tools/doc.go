// Package tools holds what make runs beside the go command: install.sh, which
// installs Debian packages, and in testlog what prints a run of tests.
package tools

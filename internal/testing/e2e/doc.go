// Package e2e boots images in virtual Pis and tests what their users see, story
// by story: the files of its tests are named after the stories.
package e2e

package main

import (
	"bytes"
	"os"
	"strings"
	"testing"
)

// TestDiagramIsFresh: docs/architecture.svg is what its source draws.
func TestDiagramIsFresh(t *testing.T) {
	source, err := os.ReadFile("../../../docs/architecture.txt")
	if err != nil {
		t.Fatal(err)
	}
	var drawn bytes.Buffer
	if err := draw(bytes.NewReader(source), &drawn); err != nil {
		t.Fatal(err)
	}
	kept, err := os.ReadFile("../../../docs/architecture.svg")
	if err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(drawn.Bytes(), kept) {
		t.Error("docs/architecture.svg is not what docs/architecture.txt draws: run make generate")
	}
}

func TestErrorsNameTheLine(t *testing.T) {
	for source, want := range map[string]string{
		"circle a":                                `line 1: unknown word "circle"`,
		"lane x\nbox a one 0 title":               "line 2: invalid box",
		"box a 0 0 title":                         "line 1: invalid box",
		"lane x\nbox a 0 0 title\n\narrow a gone": `line 4: unknown box "gone"`,
	} {
		if err := draw(strings.NewReader(source), &bytes.Buffer{}); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%q: got %v, want %s", source, err, want)
		}
	}
}

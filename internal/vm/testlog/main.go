// Command testlog reads the output of go test -v and prints what a person
// wants to see of it: the seconds of each test, everything of those that
// failed, and how many passed.
package main

import (
	"bufio"
	"fmt"
	"os"
	"regexp"
	"strings"
)

// result is a line that ends a test, of a function or a part of one.
var result = regexp.MustCompile(`^(\s*)--- (PASS|FAIL|SKIP): (\S+) \(([0-9.]+)s\)`)

func main() {
	passed, failed, skipped, broken := 0, 0, 0, false
	var block []string
	sc := bufio.NewScanner(os.Stdin)
	sc.Buffer(nil, 16<<20)
	for sc.Scan() {
		line := sc.Text()
		m := result.FindStringSubmatch(line)
		switch {
		case m != nil:
			switch m[2] {
			case "PASS":
				passed++
			case "FAIL":
				failed++
			case "SKIP":
				skipped++
			}
			fmt.Println(line)
			if m[2] == "FAIL" {
				for _, l := range block {
					fmt.Println(l)
				}
			}
			block = nil
		case strings.HasPrefix(line, "=== "):
		case strings.HasPrefix(line, "FAIL"), strings.HasPrefix(line, "panic:"), strings.Contains(line, "[build failed]"), strings.Contains(line, "[setup failed]"):
			broken = true
			for _, l := range block {
				fmt.Println(l)
			}
			block = nil
			fmt.Println(line)
		case strings.Contains(line, "crash states: "):
			fmt.Println(strings.TrimSpace(line)) // a figure, and the seed it is of
		case strings.HasPrefix(line, "ok "):
			block = nil
			fmt.Println(line)
		default:
			// go test -v prints what a test logged before or after its
			// result; a bounded tail of it is kept for failures.
			block = append(block, line)
			if len(block) > 4000 {
				block = block[1000:]
			}
			if failed > 0 {
				fmt.Println(line)
			}
		}
	}
	fmt.Printf("%d passed, %d failed, %d skipped\n", passed, failed, skipped)
	if broken || failed > 0 || passed == 0 {
		os.Exit(1)
	}
}

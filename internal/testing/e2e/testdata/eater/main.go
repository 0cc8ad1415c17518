// Command eater takes memory until it has as many MiB as it is told, then
// says so: a container to try limits with.
package main

import (
	"fmt"
	"os"
	"strconv"
)

func main() {
	want, err := strconv.Atoi(os.Args[1])
	if err != nil {
		panic(err)
	}
	var all [][]byte
	for i := 0; i < want; i++ {
		b := make([]byte, 1<<20)
		for j := range b {
			b[j] = 1
		}
		all = append(all, b)
	}
	fmt.Println("eater: had", len(all), "MiB")
	if err := os.WriteFile("/written", []byte("x"), 0o644); err != nil {
		panic(err)
	}
}

package slots_test

import (
	"bytes"
	"fmt"

	"github.com/pikelet-os/pikelet/internal/shared/slots"
)

// autoboot.txt with slot a as the default and slot b under trial. The rest of
// its sector is padding.
func ExampleEncodeAutoboot() {
	sector := slots.EncodeAutoboot(slots.A)
	fmt.Printf("%s\n", bytes.Join(bytes.Split(sector, []byte("\n"))[:5], []byte("\n")))
	fmt.Println(len(sector), "bytes")
	// Output:
	// [all]
	// tryboot_a_b=1
	// boot_partition=2
	// [tryboot]
	// boot_partition=3
	// 512 bytes
}

// Committing an upgrade writes the sector again with the other slot.
func ExampleDecodeAutoboot() {
	slot, err := slots.DecodeAutoboot(slots.EncodeAutoboot(slots.B))
	fmt.Println(slot, err)
	// Output: b <nil>
}

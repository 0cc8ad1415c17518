package diskid

import (
	"encoding/binary"
	"encoding/hex"
)

// page83 is what a disk says in the vital product data page "device
// identification" (SPC-4 section 7.8.6).
type page83 struct {
	ata  string   // MODEL_SERIAL of an ATA disk
	scsi []string // as scsi_id prints them: the type and the identifier
	wwn  []string // of NAA identifiers
}

// Fields of a designation descriptor (SPC-4 section 7.8.6.1): the type and the
// association in its second byte, and the types that name disks.
const (
	descriptorHead = 4
	typeMask       = 0x0f
	ofMask         = 0x30 // 0 is the logical unit, others are the port or the target
	typeT10        = 1
	typeEUI64      = 2
	typeNAA        = 3
)

// An ATA disk says vendor, model and serial number in its T10 descriptor (SAT-3
// section 10.4.3.2), each of a fixed length in bytes.
const (
	ataVendor = "ATA     "
	ataModel  = 40
	ataSerial = 20
)

// parsePage83 reads the page as sysfs has it. Broken pages name nothing.
func parsePage83(b []byte) page83 {
	var ids page83
	if len(b) < descriptorHead || b[1] != 0x83 {
		return ids
	}
	b = b[descriptorHead:min(len(b), descriptorHead+int(binary.BigEndian.Uint16(b[2:])))]
	for len(b) >= descriptorHead {
		n := descriptorHead + int(b[3])
		if n > len(b) {
			break
		}
		value := b[descriptorHead:n]
		kind, of := b[1]&typeMask, b[1]&ofMask
		b = b[n:]
		switch {
		case of != 0 || len(value) == 0:
		case kind == typeNAA:
			text := hex.EncodeToString(value)
			ids.scsi = append(ids.scsi, "3"+text)
			ids.wwn = append(ids.wwn, "0x"+text)
		case kind == typeEUI64:
			ids.scsi = append(ids.scsi, "2"+hex.EncodeToString(value))
		case kind == typeT10 && len(value) == len(ataVendor)+ataModel+ataSerial && string(value[:len(ataVendor)]) == ataVendor:
			model, serial := value[len(ataVendor):len(ataVendor)+ataModel], value[len(ataVendor)+ataModel:]
			ids.ata = clean(string(model)) + "_" + clean(string(serial))
		}
	}
	return ids
}

package patch

// The ways in which a node may come by an image, as desk and node call them.
const (
	ByPatch = "a patch"
	ByFiles = "the files that changed"
	ByImage = "the whole image"
)

// LinkRate is what estimates take a network for, bytes a second: a Pi 3's 100
// Mbit/s, with what that carries of payload.
const LinkRate = 11 << 20

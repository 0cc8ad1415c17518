package spec

import _ "embed"

//go:embed image.schema.json
var schema []byte

// Schema returns the JSON schema of image specs, for editors. It is made of
// the types here and their comments: go test ./builder/spec -update.
func Schema() []byte { return append([]byte(nil), schema...) }

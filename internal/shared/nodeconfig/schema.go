package nodeconfig

import _ "embed"

//go:embed nodes.schema.json
var schema []byte

// Schema returns the JSON schema of inventories and node configs, for
// editors. It is made of the types here and their comments: go test
// ./internal/shared/nodeconfig -update.
func Schema() []byte { return append([]byte(nil), schema...) }

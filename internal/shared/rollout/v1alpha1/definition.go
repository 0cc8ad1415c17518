package v1alpha1

import _ "embed"

// Definition is the CustomResourceDefinition of Rollout, as YAML. controller-gen
// makes it of the types of this package.
//
//go:embed pikelet.dev_rollouts.yaml
var Definition []byte

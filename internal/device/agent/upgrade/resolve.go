package upgrade

import (
	"context"

	"github.com/pikelet-os/pikelet/internal/device/agent/runfiles"
	"github.com/pikelet-os/pikelet/internal/shared/image/registry"
)

// Resolver returns a function that returns a reference with the digest of the manifest
// of the image that another one names, by a tag or by an index. It asks the registry
// as this node does; a key that the node trusts must have signed the image. It is nil
// on computers that are no nodes.
func Resolver() func(ctx context.Context, ref string) (string, error) {
	b, err := runfiles.Boot()
	if err != nil {
		return nil
	}
	return func(ctx context.Context, ref string) (string, error) {
		cfg, err := runfiles.Config()
		if err != nil {
			return "", err
		}
		options, err := registryOptions(cfg, ref, cfg.Upgrades.PlainHTTP)
		if err != nil {
			return "", err
		}
		keys, err := trusted(b)
		if err != nil {
			return "", err
		}
		place, tag, err := registry.Repository(ref, options)
		if err != nil {
			return "", err
		}
		img, err := registry.Open(ctx, place, tag, registry.Want{Keys: keys, Arch: arch, Stream: b.Stream})
		if err != nil {
			return "", err
		}
		return registry.Name(ref) + "@" + img.Digest, nil
	}
}

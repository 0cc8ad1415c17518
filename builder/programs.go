package builder

import "fmt"

// addPrograms unpacks the programs that the overlays add.
func (p *Plan) addPrograms() error {
	for _, o := range p.Overlays {
		for _, name := range o.Programs {
			b, err := p.Programs.Other(name)
			if err != nil {
				return fmt.Errorf("overlay %q: programs: %w", o.Name, err)
			}
			if p.Added == nil {
				p.Added = map[string][]byte{}
			}
			p.Added[name] = b
		}
	}
	return nil
}

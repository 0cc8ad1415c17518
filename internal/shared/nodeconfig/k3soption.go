package nodeconfig

import "slices"

// TakesOption reports whether k3s takes an option, by its full name, in its
// config file as a role, server or agent, in any of the releases that the list
// is of.
func TakesOption(role, name string) bool {
	if role == "agent" {
		return isAgentOption(name)
	}
	return isServerOnly(name) || isAgentOption(name) && !slices.Contains([]string{"disable-apiserver-lb"}, name)
}

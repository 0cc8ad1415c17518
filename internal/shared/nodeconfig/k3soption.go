package nodeconfig

// TakesOption reports whether k3s takes an option, by its full name, in its
// config file as a role, server or agent, from a minor version of v1 on.
func TakesOption(role, name string, minor int) bool {
	o, known := findOption(name)
	if !known || o.since > minor {
		return false
	}
	return role == "agent" && o.agent || role == "server" && o.server
}

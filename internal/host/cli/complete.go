package cli

import (
	"strings"

	"github.com/spf13/cobra"

	"github.com/pikelet-os/pikelet/boards"
	"github.com/pikelet-os/pikelet/internal/host/provision"
	"github.com/pikelet-os/pikelet/internal/host/publish"
	"github.com/pikelet-os/pikelet/internal/shared/slots"
)

// complete registers what completes the value of a flag. It panics for a flag
// that the command does not have.
func complete(c *cobra.Command, flag string, f cobra.CompletionFunc) {
	if err := c.RegisterFlagCompletionFunc(flag, f); err != nil {
		panic(err)
	}
}

// completeNode completes the hostname of a node from the inventory that the
// command line names: by --inventory, or as the first argument.
func completeNode(c *cobra.Command, args []string, prefix string) ([]cobra.Completion, cobra.ShellCompDirective) {
	file := ""
	if f := c.Flags().Lookup("inventory"); f != nil {
		file = f.Value.String()
	} else if len(args) > 0 {
		file = args[0]
	}
	doc, err := provision.Load(file)
	if err != nil || doc.Inventory == nil {
		return nil, cobra.ShellCompDirectiveNoFileComp
	}
	var names []cobra.Completion
	for _, n := range doc.Inventory.Nodes {
		if n.Hostname != "" && strings.HasPrefix(n.Hostname, prefix) {
			names = append(names, n.Hostname)
		}
	}
	return names, cobra.ShellCompDirectiveNoFileComp
}

func completeBoard(*cobra.Command, []string, string) ([]cobra.Completion, cobra.ShellCompDirective) {
	return boards.Names(), cobra.ShellCompDirectiveNoFileComp
}

// completeSlot completes the number of a partition with the slot it holds.
func completeSlot(*cobra.Command, []string, string) ([]cobra.Completion, cobra.ShellCompDirective) {
	var list []cobra.Completion
	for _, l := range []slots.Letter{slots.A, slots.B} {
		list = append(list, cobra.CompletionWithDesc(string(rune('0'+l.Partition())), "slot "+string(l)))
	}
	return list, cobra.ShellCompDirectiveNoFileComp
}

func completeInterface(*cobra.Command, []string, string) ([]cobra.Completion, cobra.ShellCompDirective) {
	return interfaces(), cobra.ShellCompDirectiveNoFileComp
}

func completeForm(*cobra.Command, []string, string) ([]cobra.Completion, cobra.ShellCompDirective) {
	var list []cobra.Completion
	for _, f := range publish.Forms {
		list = append(list, string(f))
	}
	return list, cobra.ShellCompDirectiveNoFileComp
}

package cli

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/spf13/cobra"

	"github.com/pikelet-os/pikelet/internal/host/bootserver"
)

// defaultAdmin is where pikelet serve answers people.
const defaultAdmin = "127.0.0.1:8070"

// adminOptions say which server is asked.
type adminOptions struct {
	Server string
	Token  string // the file
}

func (o *adminOptions) addFlags(c *cobra.Command) {
	f := c.PersistentFlags()
	f.StringVar(&o.Server, "server", "http://"+defaultAdmin, "where pikelet serve answers")
	f.StringVar(&o.Token, "admin-token", "", "file with its token")
}

func newNodes(say *teller) *cobra.Command {
	var o adminOptions
	c := &cobra.Command{
		Use:   "nodes",
		Short: "List the machines a boot server knows, and adopt them",
		Long: `List the machines that pikelet serve has heard of: who they are, how far each is,
and what went wrong. Those that nobody has adopted wait.`,
		Args: cobra.NoArgs,
		RunE: func(c *cobra.Command, _ []string) error {
			b, err := o.ask(c.Context(), http.MethodGet, "/nodes", nil)
			if err != nil {
				return err
			}
			var list []bootserver.Node
			if err := json.Unmarshal(b, &list); err != nil {
				return fmt.Errorf("reading what %s says: %w", o.Server, err)
			}
			for i := range list {
				list[i] = printable(list[i])
			}
			say.result(list, nodeTable(list, time.Now()))
			return nil
		},
	}
	o.addFlags(c)
	c.AddCommand(newAdopt(&o, say))
	return c
}

func newAdopt(o *adminOptions, say *teller) *cobra.Command {
	var as, mac string
	c := &cobra.Command{
		Use:   "adopt SERIAL --mac ADDRESS",
		Short: "Have a machine that waits boot, and be a node of the inventory",
		Long: `Have a machine that waits boot. --mac is the hardware address that pikelet nodes
shows beside the serial: any machine can say a serial, and the one that is
adopted is held to this address. With --as it becomes that node of the
inventory: its name, its identity, its volume; a node that the inventory ties to
a machine by serial or address, or that another one was adopted as, is taken.`,
		Args: exactly(1, "the machine's serial, the last eight digits"),
		RunE: func(c *cobra.Command, args []string) error {
			hw, err := net.ParseMAC(mac)
			if err != nil || len(hw) != 6 {
				return usageError{fmt.Errorf("--mac %q: want the hardware address that pikelet nodes shows beside the serial", mac)}
			}
			serial := strings.ToLower(args[0])
			if len(serial) > 8 {
				serial = serial[len(serial)-8:]
			}
			form := url.Values{"serial": {serial}, "mac": {hw.String()}, "as": {as}}
			if _, err := o.ask(c.Context(), http.MethodPost, "/adopt", form); err != nil {
				return err
			}
			say.result(map[string]string{"serial": serial, "mac": hw.String(), "as": as}, serial+" is adopted, and boots when it asks the next time")
			return nil
		},
	}
	c.Flags().StringVar(&mac, "mac", "", "the machine's hardware address, as pikelet nodes shows it (required)")
	c.Flags().StringVar(&as, "as", "", "the hostname of its entry in the inventory")
	return c
}

// maxShown bounds what is shown of one thing that a server says, in bytes.
const maxShown = 4 << 10

// printable returns a node with nothing in it that moves a terminal's cursor.
func printable(n bootserver.Node) bootserver.Node {
	for _, s := range []*string{&n.Serial, &n.MAC, &n.Model, &n.IP, &n.Stage, &n.Release, &n.Error} {
		*s = bootserver.Printable(*s, maxShown)
	}
	return n
}

// ask asks a server, and returns what it answers.
func (o *adminOptions) ask(ctx context.Context, method, path string, form url.Values) ([]byte, error) {
	token, err := readToken(o.Token)
	if err != nil {
		return nil, err
	}
	ctx, stop := context.WithTimeout(ctx, 30*time.Second)
	defer stop()
	r, err := http.NewRequestWithContext(ctx, method, strings.TrimRight(o.Server, "/")+path, strings.NewReader(form.Encode()))
	if err != nil {
		return nil, usageError{err}
	}
	if form != nil {
		r.Header.Set("Content-Type", "application/x-www-form-urlencoded")
	}
	if token != "" {
		r.Header.Set("Authorization", "Bearer "+token)
	}
	resp, err := http.DefaultClient.Do(r)
	if err != nil {
		return nil, fmt.Errorf("%w; is pikelet serve running there? --server names another place", err)
	}
	defer resp.Body.Close()
	b, err := io.ReadAll(io.LimitReader(resp.Body, 16<<20))
	if err != nil {
		return nil, err
	}
	if resp.StatusCode >= 300 {
		return nil, errors.New(bootserver.Printable(strings.TrimSpace(string(b)), maxShown))
	}
	return b, nil
}

// nodeTable shows machines, a line for each.
func nodeTable(list []bootserver.Node, now time.Time) string {
	if len(list) == 0 {
		return "no machine was heard of yet"
	}
	var s strings.Builder
	w := tabwriter.NewWriter(&s, 0, 0, 2, ' ', 0)
	fmt.Fprintln(w, "SERIAL\tMAC\tADDRESS\tRELEASE\tSEEN\tSTAGE")
	for _, n := range list {
		stage := n.Stage
		if n.Conflict > 0 {
			stage += fmt.Sprintf(" (CONFLICT: %d more say this serial)", n.Conflict)
		}
		if n.Error != "" {
			stage += ": " + n.Error
		}
		fmt.Fprintf(w, "%s\t%s\t%s\t%s\t%s ago\t%s\n", cmp.Or(n.Serial, "?"), cmp.Or(n.MAC, "?"), cmp.Or(n.IP, "-"), cmp.Or(n.Release, "-"), now.Sub(n.Last).Round(time.Second), stage)
	}
	w.Flush()
	return strings.TrimRight(s.String(), "\n")
}

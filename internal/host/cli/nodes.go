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
	"github.com/pikelet-os/pikelet/internal/shared/hint"
	"github.com/pikelet-os/pikelet/internal/shared/node"
)

// defaultAdmin is the address of the admin listener of pikelet serve.
const defaultAdmin = "127.0.0.1:8070"

// adminOptions name the boot server.
type adminOptions struct {
	Server string
	Token  string // the file
}

func (o *adminOptions) addFlags(c *cobra.Command) {
	f := c.PersistentFlags()
	f.StringVar(&o.Server, "server", "http://"+defaultAdmin, "`URL` of the admin listener of pikelet serve")
	f.StringVar(&o.Token, "admin-token", "", "`FILE` with the token of the admin listener")
}

func newNodes(a *app) *cobra.Command {
	var o adminOptions
	c := &cobra.Command{
		Use:   "nodes",
		Short: "List the machines of a boot server, and adopt them",
		Long: `List the machines that have asked pikelet serve to boot: serial, hardware address,
boot stage, and errors. Machines that are neither in the inventory nor adopted
wait.`,
		Example: `  pikelet nodes
  pikelet nodes adopt 52617370 --mac d8:3a:dd:01:02:03 --node attic`,
		GroupID: groupBoot,
		Args:    cobra.NoArgs,
		RunE: func(c *cobra.Command, _ []string) error {
			b, err := o.ask(c.Context(), http.MethodGet, "/nodes", nil)
			if err != nil {
				return err
			}
			var list []bootserver.Node
			if err := json.Unmarshal(b, &list); err != nil {
				return fmt.Errorf("reading the answer of %s: %w", o.Server, err)
			}
			for i := range list {
				list[i] = printable(list[i])
			}
			a.result(list, nodeTable(list, time.Now()))
			return nil
		},
	}
	o.addFlags(c)
	c.AddCommand(newAdopt(&o, a))
	return c
}

func newAdopt(o *adminOptions, a *app) *cobra.Command {
	var as, mac string
	c := &cobra.Command{
		Use:   "adopt SERIAL --mac ADDRESS",
		Short: "Adopt a waiting machine, optionally as a node of the inventory",
		Long: `Adopt a waiting machine, which boots from then on. --mac is the hardware address
that pikelet nodes shows beside the serial: any machine can claim a serial, and the
adopted machine must keep this address. With --node it becomes that node of the
inventory, with its name, identity and volume. A node that the inventory ties to a
machine by serial or address, or that another machine was adopted as, is taken.`,
		Example: "  pikelet nodes adopt 52617370 --mac d8:3a:dd:01:02:03 --node attic",
		Args:    exactly(1, "the machine's serial, the last eight digits"),
		RunE: func(c *cobra.Command, args []string) error {
			hw, err := net.ParseMAC(mac)
			if err != nil || len(hw) != 6 {
				return usagef("--mac %q: want the hardware address that pikelet nodes shows beside the serial", mac)
			}
			serial := strings.ToLower(args[0])
			if len(serial) > 8 {
				serial = serial[len(serial)-8:]
			}
			form := url.Values{"serial": {serial}, "mac": {hw.String()}, "as": {as}}
			if _, err := o.ask(c.Context(), http.MethodPost, "/adopt", form); err != nil {
				return err
			}
			a.result(map[string]string{"serial": serial, "mac": hw.String(), "node": as}, serial+" is adopted, and boots at its next request")
			return nil
		},
	}
	c.Flags().StringVar(&mac, "mac", "", "hardware `ADDRESS` of the machine, as pikelet nodes shows it")
	c.Flags().StringVar(&as, "node", "", "`NAME` of the node of the inventory that the machine becomes")
	required(c, "mac")
	complete(c, "node", cobra.NoFileCompletions)
	return c
}

// maxShown bounds how much of one text of a server is shown, in bytes.
const maxShown = 4 << 10

// printable returns a node without terminal escape sequences.
func printable(n bootserver.Node) bootserver.Node {
	for _, s := range []*string{&n.Serial, &n.MAC, &n.Model, &n.IP, &n.Stage, &n.Release, &n.Error, &n.Held} {
		*s = bootserver.Printable(*s, maxShown)
	}
	return n
}

// ask sends a request to a server, and returns the body of the answer.
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
		return nil, hint.With(err, "check that pikelet serve is running there, or name another address with --server")
	}
	defer resp.Body.Close()
	b, err := io.ReadAll(io.LimitReader(resp.Body, 16<<20))
	if err != nil {
		return nil, err
	}
	if resp.StatusCode >= 300 {
		return nil, refusal(string(b))
	}
	return b, nil
}

// refusal returns the error of an answer: a message, and a line for each hint.
func refusal(answer string) error {
	text, hints := strings.TrimSpace(answer), []string{}
	for i := strings.LastIndexByte(text, '\n'); i >= 0; i = strings.LastIndexByte(text, '\n') {
		h, ok := node.ParseHint(text[i+1:])
		if !ok {
			break
		}
		text, hints = text[:i], append(hints, h)
	}
	err := errors.New(bootserver.Printable(text, maxShown))
	for _, h := range hints {
		err = hint.With(err, bootserver.Printable(h, maxShown))
	}
	return err
}

// nodeTable returns a table of machines.
func nodeTable(list []bootserver.Node, now time.Time) string {
	if len(list) == 0 {
		return "no machine has asked to boot yet"
	}
	var s strings.Builder
	w := tabwriter.NewWriter(&s, 0, 0, 2, ' ', 0)
	fmt.Fprintln(w, "SERIAL\tMAC\tADDRESS\tRELEASE\tSEEN\tSTAGE")
	for _, n := range list {
		stage := n.Stage
		if n.Conflict > 0 {
			stage += fmt.Sprintf(" (CONFLICT: %d more claim this serial)", n.Conflict)
		}
		if n.Held != "" {
			stage += "; " + n.Held
		}
		if n.Error != "" {
			stage += ": " + n.Error
		}
		fmt.Fprintf(w, "%s\t%s\t%s\t%s\t%s ago\t%s\n", cmp.Or(n.Serial, "?"), cmp.Or(n.MAC, "?"), cmp.Or(n.IP, "-"), cmp.Or(n.Release, "-"),
			now.Sub(n.Last).Round(time.Second), stage)
	}
	w.Flush()
	return strings.TrimRight(s.String(), "\n")
}

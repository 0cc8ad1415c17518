// Command app is what the pods of tests run: a server, and what a shell and a few
// programs would do.
package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

func main() {
	commands := map[string]func(args []string) error{
		"serve": serve, "eat": eat, "cat": cat, "write": write, "list": list, "mount": mount, "get": get, "lookup": lookup, "count": count,
		"enter": enter,
	}
	name, args := "serve", []string{":8080"}
	if len(os.Args) > 1 {
		name, args = os.Args[1], os.Args[2:]
	}
	err := fmt.Errorf("no command %q", name)
	if run := commands[name]; run != nil {
		err = run(args)
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, "app:", err)
		os.Exit(1)
	}
}

// serve answers HTTP at an address. On SIGTERM it writes a file that the
// environment names, and ends.
func serve(args []string) error {
	if len(args) != 1 {
		return errors.New("usage: serve ADDRESS")
	}
	host, err := os.Hostname()
	if err != nil {
		return err
	}
	fmt.Println("app: serving at", args[0], "as", host)
	stop := make(chan os.Signal, 1)
	signal.Notify(stop, syscall.SIGTERM)
	go func() {
		<-stop
		fmt.Println("app: terminated")
		if name := os.Getenv("ON_TERM"); name != "" {
			os.WriteFile(name, []byte("terminated\n"), 0o644)
		}
		os.Exit(0)
	}()
	http.HandleFunc("/", func(w http.ResponseWriter, r *http.Request) {
		fmt.Fprintf(w, "hello from %s to %s\n", host, r.RemoteAddr)
	})
	return http.ListenAndServe(args[0], nil)
}

// eat takes so many MiB of memory.
func eat(args []string) error {
	n, err := strconv.Atoi(args[0])
	if err != nil {
		return err
	}
	var all [][]byte
	for i := range n {
		b := make([]byte, 1<<20)
		for j := 0; j < len(b); j += 4096 {
			b[j] = byte(i)
		}
		all = append(all, b)
	}
	fmt.Println("app: took", len(all), "MiB")
	time.Sleep(time.Hour)
	return nil
}

func cat(args []string) error {
	for _, name := range args {
		b, err := os.ReadFile(name)
		if err != nil {
			return err
		}
		os.Stdout.Write(b)
	}
	return nil
}

func write(args []string) error {
	return os.WriteFile(args[0], []byte(strings.Join(args[1:], " ")+"\n"), 0o644)
}

func list(args []string) error {
	entries, err := os.ReadDir(args[0])
	for _, e := range entries {
		fmt.Println(e.Name())
	}
	return err
}

// mount mounts a file system in memory, with a file in it, and stays.
func mount(args []string) error {
	if err := os.MkdirAll(args[0], 0o755); err != nil {
		return err
	}
	if err := unix.Mount("tmpfs", args[0], "tmpfs", 0, "size=1m"); err != nil {
		return err
	}
	if err := os.WriteFile(filepath.Join(args[0], "from-pod"), []byte("from the pod\n"), 0o644); err != nil {
		return err
	}
	time.Sleep(time.Hour)
	return nil
}

func get(args []string) error {
	c := http.Client{Timeout: 20 * time.Second}
	r, err := c.Get(args[0])
	if err != nil {
		return err
	}
	defer r.Body.Close()
	_, err = io.Copy(os.Stdout, r.Body)
	return err
}

func lookup(args []string) error {
	ctx, cancel := context.WithTimeout(context.Background(), 20*time.Second)
	defer cancel()
	list, err := net.DefaultResolver.LookupHost(ctx, args[0])
	fmt.Println(strings.Join(list, " "))
	return err
}

// count appends numbers to a file, a second apart, each when it is on disk.
func count(args []string) error {
	f, err := os.OpenFile(args[0], os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o644)
	if err != nil {
		return err
	}
	for i := 1; ; i++ {
		fmt.Fprintln(f, i)
		if err := f.Sync(); err != nil {
			return err
		}
		time.Sleep(time.Second)
	}
}

// enter runs a program of the host in the mount and network namespaces of
// process 1, as storage drivers run iscsiadm; the pod needs hostPID and privilege.
func enter(args []string) error {
	runtime.LockOSThread()
	if err := unix.Unshare(unix.CLONE_FS); err != nil { // setns wants a root directory of this thread's own
		return err
	}
	for _, ns := range []struct {
		name string
		kind int
	}{{"net", unix.CLONE_NEWNET}, {"mnt", unix.CLONE_NEWNS}} { // /proc is the pod's until the last
		f, err := os.Open("/proc/1/ns/" + ns.name)
		if err != nil {
			return err
		}
		defer f.Close()
		if err := unix.Setns(int(f.Fd()), ns.kind); err != nil {
			return fmt.Errorf("entering the namespace %s: %w", ns.name, err)
		}
	}
	c := exec.Command(args[0], args[1:]...)
	c.Stdin, c.Stdout, c.Stderr = os.Stdin, os.Stdout, os.Stderr
	return c.Run()
}

package cli

import (
	"bytes"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

// unlocking runs pikelet unlock with an ssh that keeps how it was called.
func unlocking(t *testing.T) (dir string, env []string) {
	t.Helper()
	dir = t.TempDir()
	write(t, dir+"/bin/ssh", "#!/bin/sh\necho \"$@\" > "+dir+"/args\nenv > "+dir+"/env\ncat > "+dir+"/got\n", 0o755)
	return dir, []string{"BE_PIKELET=1", "HOME=" + dir, "PATH=" + dir + "/bin:" + os.Getenv("PATH")}
}

func kept(t *testing.T, dir, name string) string {
	t.Helper()
	b, err := os.ReadFile(filepath.Join(dir, name))
	if err != nil {
		t.Fatal(err)
	}
	return string(b)
}

// TestPassphraseIsNoArgument: a passphrase reaches ssh by its standard input alone.
func TestPassphraseIsNoArgument(t *testing.T) {
	const word = "correct horse battery"
	for _, c := range []struct {
		args []string
		in   string
		want string
	}{
		{[]string{"unlock", "attic"}, word + "\n", "attic doas /usr/sbin/pikeletd volume unlock\n"},
		{[]string{"unlock", "--new", "attic"}, word + "\nand more\n", "attic doas /usr/sbin/pikeletd volume unlock --new\n"},
		{[]string{"unlock", "--ssh-config", "c", "attic"}, word, "-F c attic doas /usr/sbin/pikeletd volume unlock\n"},
	} {
		dir, env := unlocking(t)
		cmd := exec.Command(os.Args[0], c.args...)
		cmd.Dir, cmd.Env, cmd.Stdin = dir, env, strings.NewReader(c.in)
		out, err := cmd.CombinedOutput()
		if err != nil {
			t.Fatalf("%v: %v: %s", c.args, err, out)
		}
		if got := kept(t, dir, "got"); got != word+"\n" {
			t.Errorf("%v: the node got %q", c.args, got)
		}
		if got := kept(t, dir, "args"); got != c.want {
			t.Errorf("%v: got ssh %s, want %s", c.args, got, c.want)
		}
		if strings.Contains(kept(t, dir, "env")+string(out), word) {
			t.Errorf("%v: the passphrase is in the environment or printed", c.args)
		}
	}
}

// TestPassphraseAtATerminal: a new one is asked for twice.
func TestPassphraseAtATerminal(t *testing.T) {
	for _, c := range []struct{ second, want string }{{"correct horse battery", ""}, {"another", "the two differ"}} {
		dir, env := unlocking(t)
		cmd := exec.Command("script", "-qec", os.Args[0]+" unlock --new attic", "/dev/null")
		cmd.Dir, cmd.Env = dir, slices.Concat(env, []string{"TERM=vt100"})
		in, err := cmd.StdinPipe()
		if err != nil {
			t.Fatal(err)
		}
		out, err := cmd.StdoutPipe()
		if err != nil {
			t.Fatal(err)
		}
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		var shown bytes.Buffer
		for _, step := range [][2]string{{"Passphrase of the volume: ", "correct horse battery"}, {"Repeat the passphrase: ", c.second}} {
			showing(t, out, &shown, step[0])
			if _, err := io.WriteString(in, step[1]+"\r"); err != nil {
				t.Fatal(err)
			}
		}
		if _, err := io.Copy(&shown, out); err != nil {
			t.Fatal(err)
		}
		in.Close()
		err = cmd.Wait()
		if (err == nil) != (c.want == "") || !strings.Contains(shown.String(), c.want) {
			t.Errorf("%v:\n%s", err, shown.String())
		}
		if c.want == "" && kept(t, dir, "got") != "correct horse battery\n" {
			t.Errorf("the node got %q", kept(t, dir, "got"))
		}
	}
}

// showing reads what is shown until it ends in text.
func showing(t *testing.T, from io.Reader, shown *bytes.Buffer, text string) {
	t.Helper()
	one := make([]byte, 1)
	for !strings.HasSuffix(shown.String(), text) {
		if _, err := from.Read(one); err != nil {
			t.Fatalf("waiting for %q: %v:\n%s", text, err, shown.String())
		}
		shown.Write(one)
	}
}

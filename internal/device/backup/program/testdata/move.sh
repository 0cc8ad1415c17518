# The steps of a move, on a machine that is the old node first and the new one then.
# $FILES has the directory of a server; $KEY is a public key of age. backup and decrypt
# are the test binary. It runs in namespaces of its own: a restart goes to this shell.
set -eu
[ $$ = 1 ]
mount --make-rprivate /
mount -t tmpfs run /run
mkdir -p /run/pikelet /run/bin /var/lib/rancher /var/lib/pikelet /usr/local/bin
for dir in /var/lib/rancher /var/lib/pikelet /usr/local/bin; do mount -t tmpfs test $dir; done
mkdir -p /var/lib/rancher/k3s /var/lib/pikelet/volume /var/lib/pikelet/state/node
echo '{"on":"state","mounted":true}' > /run/pikelet/volume.json
echo '{"stream":"lab","release":"1.0"}' > /run/pikelet/boot.json
program() { printf '#!/bin/sh\n%s\n' "$2" > /run/bin/$1; chmod +x /run/bin/$1; }
program k3s 'echo "k3s version v1.34.4+k3s1 (0123)"'
cp /run/bin/k3s /usr/local/bin/k3s
program rc-service 'echo "$@" >> /run/services'
program kubectl 'exit 1'
program backup "BE=backup exec $BINARY \"\$@\""
program decrypt "BE=decrypt exec $BINARY"
PATH=/run/bin:$PATH
is() { # is NAME SEED: makes this machine a node
	printf 'hostname: %s\nseed: %s\nk3s: {role: server, token: secret}\n' $1 $(printf %064d $2) > /run/pikelet/node.yaml
	printf '{"hostname":"%s","hostKey":"key of %s"}' $1 $1 > /run/pikelet/prepare.json
}
refused() { # refused TEXT COMMAND...
	text=$1; shift
	if said=$("$@" 2>&1); then echo "not refused: $*"; exit 1; fi
	case $said in *"$text"*) ;; *) echo "$*: no '$text' in '$said'"; exit 1 ;; esac
}
server=/var/lib/rancher/k3s/server
is attic 1
cp -r $FILES $server
refused 'not fenced' backup write --last --recipient $KEY
[ ! -e /run/services ] # a server that may run on is not stopped
backup fence --to loft --id 01 | grep -q '"moved":{"id":"01","to":"loft"'
backup fence --to loft --id 02 | grep -q '"moved":{"id":"01"'
refused 'moved elsewhere: to loft' backup fence --to roof --id 03
[ "$(sort -u /run/services)" = 'pikelet-k3s stop' ]
backup write --last --recipient $KEY > /run/last.backup
mv $server /var/lib/rancher/old
is loft 2
decrypt < /run/last.backup > /run/plain
backup restore < /run/plain > /run/said # to no pipe that ends early
grep -q 'restored attic' /run/said
[ -e $server.restored/pikelet/restored.json ]
[ -e /run/pikelet/reboot ]
backup status | grep -q '"next":{.*"move":"01","to":"loft"'
backup drop
[ ! -e $server.restored ]
[ ! -e $server ]
is cellar 3
refused 'moves to another node: got cellar, want loft' backup restore < /run/plain
mv /var/lib/rancher/old $server
is attic 1
refused 'moved elsewhere: to loft' backup restore --replace < /run/plain
refused 'fenced for another one: 01' backup unfence --id 09
cp -r $server /var/lib/rancher/copy
backup discard
[ "$(cd $server && find . -type f)" = ./pikelet/moved.json ]
refused 'were discarded' backup unfence --id 01
rm -r $server
mv /var/lib/rancher/copy $server
backup unfence --id 01
[ ! -e $server/pikelet/moved.json ]
[ "$(tail -n 1 /run/services)" = 'pikelet-k3s restart' ]
backup probe 127.0.0.1:1 sha256:00 | grep -q '^no: '

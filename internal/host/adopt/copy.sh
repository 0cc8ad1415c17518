# Copies the state of a k3s server to standard output, as a tar. Set above: $dir, its
# server directory; $tool, what copies a database that is in use: sqlite3, python3 or
# nothing; $init, systemd or openrc; $stop and $leave, yes or no.
set -eu
umask 077
PATH=$PATH:/usr/local/bin:/usr/local/sbin:/usr/sbin:/sbin
say() { echo "adopt: $*" >&2; }
service() {
	if [ "$init" = systemd ]; then systemctl "$1" k3s >&2; else rc-service k3s "$1" >&2; fi
}
need=$(($(du -sk "$dir/db" | cut -f 1) + 65536))
free=$(df -Pk "$dir" | awk 'NR == 2 {print $4}')
if [ "$free" -lt "$need" ]; then
	say "too little space for a copy of the datastore: $free KiB are free, $need KiB are needed"
	exit 1
fi
stopped=no
tmp=$(mktemp -d "$dir/.pikelet-adopt.XXXXXX")
finish() {
	status=$?
	trap - EXIT
	rm -rf "$tmp"
	if [ $stopped = yes ] && { [ "$leave" = no ] || [ $status != 0 ]; }; then
		say "starting k3s again"
		service start || say "k3s did NOT start: start it by hand"
	fi
	exit $status
}
trap finish EXIT
trap 'exit 1' HUP INT TERM PIPE
mkdir -p "$tmp/server/db"
if [ "$stop" = yes ]; then
	say "stopping k3s: the API is away until it starts again; pods keep running"
	stopped=yes
	service stop
fi
case $tool in
sqlite3) sqlite3 -batch -init /dev/null -cmd '.timeout 30000' "$dir/db/state.db" "VACUUM INTO '$tmp/server/db/state.db'" >&2 ;;
python3)
	python3 -c 'import sqlite3, sys
db = sqlite3.connect(sys.argv[1], timeout=30, isolation_level=None)
db.execute("VACUUM INTO ?", (sys.argv[2],))
db.close()' "$dir/db/state.db" "$tmp/server/db/state.db" >&2
	;;
*)
	[ $stopped = yes ] || exit 1
	cp "$dir/db/state.db" "$tmp/server/db/state.db"
	[ ! -s "$dir/db/state.db-wal" ] || cp "$dir/db/state.db-wal" "$tmp/server/db/state.db-wal"
	;;
esac
for f in "$dir"/*; do
	[ ! -h "$f" ] || continue
	[ -d "$f" ] || [ -f "$f" ] || continue
	case ${f##*/} in
	db | static | etc | logs | pikelet | *.tmp) continue ;;
	esac
	cp -RP "$f" "$tmp/server/"
done
if [ $stopped = yes ] && [ "$leave" = no ]; then
	say "starting k3s again"
	service start
	stopped=no
fi
tar -C "$tmp" -cf - server

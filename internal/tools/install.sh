#!/bin/sh
# Install Debian packages that are missing, and say which. Arguments: packages.
set -eu
export LC_ALL=C DEBIAN_FRONTEND=noninteractive
missing=
for p in "$@"; do
	dpkg-query -W -f '${Status}' "$p" 2>/dev/null | grep -q 'ok installed' || missing="$missing $p"
done
[ -n "$missing" ] || exit 0
echo "installing Debian packages:$missing"
sudo=
[ "$(id -u)" = 0 ] || sudo=sudo
out=$(mktemp)
trap 'rm -f "$out"' EXIT

# apt runs apt-get, and again while somebody else holds one of its locks. Its
# own option waits for dpkg's locks alone, not for that of /var/lib/apt/lists.
apt() {
	tries=0
	until $sudo apt-get -o DPkg::Lock::Timeout=300 "$@" >"$out" 2>&1; do
		if ! grep -Eq '(Could not get|Unable to acquire|Unable to lock).*(lock|directory)' "$out" || [ $tries -ge 360 ]; then
			cat "$out" >&2
			echo "install.sh: apt-get $* failed; install by hand:$missing" >&2
			exit 1
		fi
		[ $((tries % 12)) != 0 ] || { echo "waiting for apt's lock:"; grep -E 'lock' "$out"; }
		tries=$((tries + 1))
		sleep 5
	done
}

apt update -qq
apt install -y -qq --no-install-recommends $missing
sed -n 's/^Setting up \(.*\) \.\.\.$/installed \1/p' "$out"

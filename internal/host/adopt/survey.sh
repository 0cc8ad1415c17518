# Reads what a k3s server is configured with. $dir, its server directory, is set above.
# It writes a tar: facts, one a line, and copies of files below root/.
set -eu
umask 077
PATH=$PATH:/usr/local/bin:/usr/local/sbin:/usr/sbin:/sbin
tmp=$(mktemp -d)
trap 'rm -rf "$tmp"' EXIT
trap 'exit 1' HUP INT TERM PIPE
mkdir "$tmp/out" "$tmp/out/root"
facts=$tmp/out/facts
has() { command -v "$1" >/dev/null 2>&1; }
{
	echo "node $(cat "$root/proc/sys/kernel/hostname" 2>/dev/null || uname -n)"
	if has k3s; then echo "version $(k3s --version 2>/dev/null | sed -n 's/^k3s version \([^ ]*\).*/\1/p' | head -n 1)"; fi
	[ -d "$dir" ] && echo "server yes"
	[ -f "$dir/db/state.db" ] && echo "sqlite yes"
	[ -d "$dir/db/etcd" ] && echo "etcd yes"
	if has sqlite3; then echo "tool sqlite3"; elif has python3 && python3 -c 'import sqlite3' 2>/dev/null; then echo "tool python3"; fi
	if has systemctl && systemctl cat k3s >/dev/null 2>&1; then echo "init systemd"
	elif has rc-service && [ -f "$root/etc/init.d/k3s" ]; then echo "init openrc"; fi
	if has ip; then
		ip -o addr show scope global 2>/dev/null | awk '$2 !~ /^(cni|flannel|veth|docker|kube|cali|cilium)/ {print "address", $4}'
	fi
	for f in "$dir"/static/*; do
		[ "$f" = "$dir/static/charts" ] || [ ! -e "$f" ] || echo "static ${f##*/}"
	done
} >"$facts"
keep() {
	[ -f "$root/$1" ] || return 0
	[ "$(wc -c <"$root/$1")" -le 1048576 ] || return 0
	mkdir -p "$tmp/out/root/${1%/*}"
	cat "$root/$1" >"$tmp/out/root/$1"
}
for f in etc/rancher/k3s/config.yaml etc/rancher/k3s/registries.yaml etc/init.d/k3s etc/conf.d/k3s etc/default/k3s etc/sysconfig/k3s \
	etc/systemd/system/k3s.service etc/systemd/system/k3s.service.env etc/rancher/k3s/k3s.env; do
	keep "$f"
done
for f in "$root"/etc/rancher/k3s/config.yaml.d/*.yaml "$root"/etc/systemd/system/k3s.service.d/*.conf; do
	[ ! -f "$f" ] || keep "${f#"$root/"}"
done
tar -C "$tmp/out" -cf - facts root

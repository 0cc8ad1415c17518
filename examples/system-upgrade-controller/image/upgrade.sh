#!/bin/sh
# Brings this node to a release of an image, and ends well only once the node runs
# it and keeps it. The restart ends the pod; its Job starts another one, which goes
# on here. The argument is the repository.
set -eu
release=$SYSTEM_UPGRADE_PLAN_LATEST_VERSION

# The node's pikeletd, among the node's files. PIDs and network are the node's in
# pods of system-upgrade-controller.
pikeletd() { nsenter -t 1 -m -u -- /usr/sbin/pikeletd "$@"; }

# A field of what runs, which comes first in the status.
runs() { printf '%s\n' "$status" | sed -n "s/^ *\"$1\": \"\(.*\)\",*\$/\1/p" | head -n 1; }

while status=$(pikeletd status --json) && [ "$(runs kind)" = trial ]; do
	echo "release $(runs release) is on trial"
	sleep 10
done
if [ -z "$status" ]; then
	echo "pikeletd status failed" >&2
	exit 1
fi
if [ "$(runs kind) $(runs release)" = "committed $release" ]; then
	echo "the node runs release $release, and keeps it"
	exit 0
fi
# Refused, among others: a release that failed on this node before.
pikeletd upgrade "$1:$release"
# It returns as soon as the restart is under way, which ends this pod. To end well
# here would have the controller go on to the next node before this one has tried
# the release.
echo "waiting for the restart"
sleep 600
echo "the node did not restart" >&2
exit 1

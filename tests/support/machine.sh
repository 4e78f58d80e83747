#!/bin/sh
# A machine with a salt-minion or a sshd, as process 1 of its own namespaces: `shutdown` ends all that runs in it, and it boots
# again with another boot id. See machine.py, whose files in $1 it goes by. Usage: machine.sh FOLDER COMMAND...
set -eu
here=$1
shift
touch "$here/boot_id"
# Never the host's own: where there is one, ours lies over it (and over systemctl, where it is a link to that).
real=$(command -v shutdown) && mount --bind "$here/bin/shutdown" "$(readlink -f "$real")"
mount --bind "$here/boot_id" /proc/sys/kernel/random/boot_id
mount -t tmpfs tmpfs /run
mkdir -p /run/systemd /run/sshd
ln -s "$here/run" /run/systemd/shutdown
while :; do
    rm -f "$here/down" "$here/run/scheduled"
    [ "$(cat "$here/mode")" = same ] || cat /proc/sys/kernel/random/uuid > "$here/boot_id"
    PATH="$here/bin:$PATH" "$@" < /dev/null &
    until [ -e "$here/down" ]; do sleep 0.1; done
    kill -KILL -1
    wait || :
    while [ "$(cat "$here/mode")" = off ]; do sleep 0.1; done
done

#!/bin/sh
# A machine that systemd runs: systemd as process 1 of its own namespaces, in a control group of its own. See systemd.py, whose files
# are in $1, and $2 is the name of the group. Usage, in a mount namespace of its own: systemd.sh FOLDER GROUP
set -eu
here=$1 group=$2
case ${3:-} in
    '')
        mount -t cgroup2 cgroup2 "$here/groups"
        mkdir "$here/groups/$group"
        echo $$ > "$here/groups/$group/cgroup.procs"
        exec unshare --cgroup --mount --pid --fork --mount-proc --kill-child --ipc --uts --net "$0" "$here" "$group" inside
        ;;
    inside) ;;
    remove)
        mount -t cgroup2 cgroup2 "$here/groups"
        find "$here/groups/$group" -depth -type d -exec rmdir {} +
        exit
        ;;
esac
# What it writes is its own, and its units are ours alone.
umount "$here/groups"
mount -t tmpfs tmpfs /run
mount -t tmpfs tmpfs /var/lib/systemd
mount -t tmpfs tmpfs /usr/lib/systemd/system-generators
mount --bind "$here/units" /usr/lib/systemd/system
mount --bind "$here/etc" /etc/systemd/system
# The kernel's settings are the host's.
mount --bind /proc/sys /proc/sys
mount -o remount,bind,ro /proc/sys
umount --recursive /sys/fs/cgroup 2> /dev/null || :
mount -t cgroup2 cgroup2 /sys/fs/cgroup
# Its console, which has to be a terminal, and its log.
mount --bind /dev/null /dev/console
[ ! -e /dev/kmsg ] || mount --bind "$here/log" /dev/kmsg
exec env -i PATH=/usr/sbin:/usr/bin:/sbin:/bin container=deploytoken /lib/systemd/systemd --system --log-target=kmsg --show-status=no

#!/bin/sh
# The `shutdown` of a machine of machine.py, which puts its folder here: `shutdown -r now`, or `shutdown -r +1`, of
# which the minute is shorter.
here=@FOLDER@
[ "$1" = -r ] || exit 1 # it may lie over systemctl
echo "$*" >> "$here/orders"
case $(cat "$here/mode") in
    refuse) echo 'Operation inhibited by "backup"' >&2; exit 1 ;;
    ignore) exit 0 ;;
esac
if [ "$2" = now ]; then
    touch "$here/down"
    sleep 60 # is ended with everything else
else
    # As systemd notes it, under this name below /run/systemd/shutdown.
    printf 'USEC=%s000000\nWARN_WALL=1\nMODE=reboot\n' "$(($(date +%s) + 60))" > "$here/run/scheduled"
    (sleep 4; touch "$here/down") > /dev/null 2>&1 &
fi

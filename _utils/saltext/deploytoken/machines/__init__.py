"""Many machines: who is expected, who answered, states and reboots; through a master, or over salt-ssh."""

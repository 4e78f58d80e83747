"""What the tests stand on: real services on loopback, started on demand, ended by their own process id."""

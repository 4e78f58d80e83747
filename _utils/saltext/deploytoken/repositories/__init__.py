"""The repositories that are deployed from: one working tree, and all of them or none."""

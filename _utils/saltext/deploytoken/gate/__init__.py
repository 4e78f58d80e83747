"""The master's side of the gate: the live token, and the record of broken glass."""

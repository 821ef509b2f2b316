"""Tables and figures to read."""

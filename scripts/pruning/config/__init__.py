"""What can be set, the embedded default, and checks before a run."""

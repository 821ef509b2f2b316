"""`prune`: one command from a model and a file of data to a decision and a folder. It runs the same workflow."""

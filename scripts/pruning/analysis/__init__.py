"""Numbers of the tables and figures, from artefacts alone."""

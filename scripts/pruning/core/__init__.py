"""What every stage stands on: artefacts, command lines, errors, machines, significance."""

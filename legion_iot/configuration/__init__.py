"""What the programs can be told, and who told them what: flags, environment, files, defaults."""

"""What may be wrong with a machine, a broker or a group, looked for one thing after the other."""

"""`legion bench fleet`: the published experiment on real agent processes, a real broker and shaped links."""

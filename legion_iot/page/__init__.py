"""The live page: a group in a browser, and what the orchestrator serves of it."""

"""A group of devices on one machine: agent processes, and the demonstration that runs on them."""

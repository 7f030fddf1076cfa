"""How a plan is carried out. Pure state machines: an event in, effects out; no I/O, no clock, no thread."""

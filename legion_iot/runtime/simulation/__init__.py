"""Whole groups in virtual time: the real machines, modelled links and devices, faults from a seed, and invariants."""

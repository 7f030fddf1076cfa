"""`legion bench faults`: what a group of real processes does when something breaks."""

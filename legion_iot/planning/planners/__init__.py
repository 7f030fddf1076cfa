"""The planners, one file each; all yield a `Plan`."""

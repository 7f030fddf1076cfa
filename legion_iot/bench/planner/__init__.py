"""`legion bench planner`: planners against measured ground truth, and the recorder of that truth."""

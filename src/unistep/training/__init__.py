"""From a run to a student: the loop, a step, several processes, the run folder, plans, smoke tests."""

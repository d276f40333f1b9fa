"""A sweep: a grid of runs, several at once, restartable."""

"""Where a run's rows go beside its JSON lines, one file a tool. Its package is imported only where an experiment names it."""

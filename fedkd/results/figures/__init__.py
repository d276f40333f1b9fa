"""The figures of runs. Drawn without pyplot, so no state of matplotlib's outlives a call."""

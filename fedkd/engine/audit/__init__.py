"""Audit: what a run's uploads tell of its clients' data, measured by attacking them."""

"""Scores nets: classifiers, encoders, peers."""

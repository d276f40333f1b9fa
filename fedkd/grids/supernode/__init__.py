"""Flower's SuperNode, kept warm: it looks for messages often, and one process answers all of a run's."""

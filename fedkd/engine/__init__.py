"""Runs the rounds and carries knowledge between client and server."""

"""Replay: what the server would have broadcast, had it read or put together a round's uploads in another way."""

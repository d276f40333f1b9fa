"""Students of finished runs and of clients' nets."""

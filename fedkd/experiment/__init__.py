"""What an experiment says: its keys, its file, and the algorithm that it names."""

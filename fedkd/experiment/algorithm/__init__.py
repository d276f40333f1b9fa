"""The contract of an algorithm, and all that its two halves may touch."""

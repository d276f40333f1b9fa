"""What travels, how it is coded and what protects it."""

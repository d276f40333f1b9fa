"""What students at the server share: their nets, their teachers, and what they learn from them."""

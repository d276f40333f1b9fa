"""What two or more algorithms share, and no engine needs. What one algorithm alone uses is in its own file in strategies/."""

"""What a server proves that nobody inspects."""

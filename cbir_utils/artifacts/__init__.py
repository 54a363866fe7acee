"""What a run keeps: files that appear whole or not at all, each with its hash."""

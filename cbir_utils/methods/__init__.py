"""What learns or compares beyond the paper's own network: notebooks 06 to 09."""

"""Word lists of any size: read, split and encoded without a Python string for each word."""

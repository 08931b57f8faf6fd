"""One run on many processes, each with a part of every batch (beyond the lecture)."""

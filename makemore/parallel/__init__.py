"""One run on several processes, each with a part of every batch."""

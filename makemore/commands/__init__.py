"""What a person types: flags, runs that survive, words, pictures (beyond the lecture)."""

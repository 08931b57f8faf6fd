"""What a person types: flags, runs that survive, words, pictures."""

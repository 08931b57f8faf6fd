"""The resumable training loop that every recipe shares, the lecture's recipe, and ensembles."""

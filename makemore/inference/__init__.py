"""A trained network put to use: as a dilated causal convolution, for losses, likelihoods and new words."""

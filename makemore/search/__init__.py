"""The best settings for a word list: many runs, of which Optuna chooses the settings. Needs Optuna."""

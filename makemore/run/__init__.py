"""Training runs: networks, recipes and engines by name, settings, the model file, and all output."""

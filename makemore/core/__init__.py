"""What a layer is, how layers form a network, and what every other package builds on."""

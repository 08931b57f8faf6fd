"""The WaveNet paper beyond the lecture: gates, residual and skip connections, and a few more layers."""

"""Pictures of a network as matplotlib figures, one module for each picture, and a table of its layers.

Nothing is imported here: training uses ``recorder.py`` and should not load matplotlib.
"""

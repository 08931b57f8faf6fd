"""Pictures of a network at work, as figures of matplotlib, a picture a module (beyond the lecture).

Nothing is imported here: ``recorder.py``, which a training uses, is to do without matplotlib.
"""

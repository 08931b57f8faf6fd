"""The lecture, file by file: words, layers, networks, training, plotting, evaluation, sampling.

"Building makemore, part 5: building a WaveNet" by Andrej Karpathy, https://www.youtube.com/watch?v=t3YJ5hKiMQ0.
Cells are counted in the lecture's notebook. Everything beyond the lecture is in the other packages.
"""

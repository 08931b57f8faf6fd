"""The figures that pictures are drawn on. A notebook shows them without ``%matplotlib inline``."""

from io import BytesIO

import matplotlib.figure


class Figure(matplotlib.figure.Figure):
    """A matplotlib figure that Jupyter shows as a picture when it is the value of a cell."""

    def _repr_png_(self) -> bytes:
        file = BytesIO()
        self.savefig(file, format="png")
        return file.getvalue()

"""Contents of files that are not word lists, each with a part of the error message."""

from __future__ import annotations

import random

BAD_LISTS = [
    (b"", "has 0 words; at least 6 are needed"),
    (b"\n \n\r\n", "has 0 words"),
    (b"emma\n", "has 1 word; at least 6 are needed"),
    (b"anna\nb\xff\n", "not a utf-8 word list: line 2 has the byte 0xff"),
    (b"\xff\xfe\0e\0m\0m\0a", "not a utf-8 word list: line 1 has the byte 0xff"),
    (b"a\0b\nc\nd\ne\nf\ng\n", "binary file"),
    (random.Random(0).randbytes(1000), "utf-8|binary"),
]

"""Word lists that are none, each with what is said of it."""

from __future__ import annotations

import random

BAD_LISTS = [
    (b"", "holds 0 words"),
    (b"\n \n\r\n", "holds 0 words"),
    (b"emma\n", "holds 1 words; 6 is the least"),
    (b"anna\nb\xff\n", "not a utf-8 word list: line 2 holds the byte 0xff"),
    (b"\xff\xfe\0e\0m\0m\0a", "not a utf-8 word list: line 1 holds the byte 0xff"),
    (b"a\0b\nc\nd\ne\nf\ng\n", "binary file"),
    (random.Random(0).randbytes(1000), "utf-8|binary"),
]

"""Model files with changed content and a correct sha256, which anyone can compute: see ``run.model_file``."""

from __future__ import annotations

import hashlib
import json
import re
import sys
from collections.abc import Callable
from typing import Any

import safetensors.torch
import torch

NO_DIGEST = b"0" * 64


def content_of(whole: bytes) -> dict[str, Any]:
    """The JSON of a model file, with its tensors as "tensors", sorted by name."""
    header = json.loads(whole[8 : 8 + int.from_bytes(whole[:8], "little")])
    content = json.loads(header["__metadata__"]["makemore"])
    assert isinstance(content, dict)
    return content | {"tensors": dict(sorted(safetensors.torch.load(whole).items()))}


def forged(content: dict[str, Any]) -> bytes:
    """A model file with that content and a correct sha256. In "tensors" only tensors are kept."""
    tensors = content.get("tensors")
    plain = {key: value for key, value in content.items() if key != "tensors"}
    digits = sys.get_int_max_str_digits()
    sys.set_int_max_str_digits(0)
    try:
        text = json.dumps(plain, default=str)
    finally:
        sys.set_int_max_str_digits(digits)
    known = tensors.items() if isinstance(tensors, dict) else ()
    copies = {
        str(name): value.clone().contiguous() for name, value in known if isinstance(value, torch.Tensor)
    }
    encodable = {name.encode("utf-8", "replace").decode(): value for name, value in copies.items()}
    return signed(safetensors.torch.save(encodable, {"format": "pt", "makemore": text}))


def with_header(whole: bytes, change: Callable[[dict[str, Any]], object]) -> bytes:
    """The file with its safetensors header changed and a correct sha256. The tensors' bytes stay."""
    end = 8 + int.from_bytes(whole[:8], "little")
    header = json.loads(whole[8:end])
    change(header)
    text = json.dumps(header).encode()
    return signed(len(text).to_bytes(8, "little") + text + whole[end:])


def signed(whole: bytes) -> bytes:
    """The bytes with a correct sha256, if they have a place for one."""
    place = re.search(rb'sha256\\": \\"([0-9a-f]{64})', whole)
    if place is None:
        return whole
    unsigned = whole[: place.start(1)] + NO_DIGEST + whole[place.end(1) :]
    digest = hashlib.sha256(unsigned).hexdigest().encode()
    return whole[: place.start(1)] + digest + whole[place.end(1) :]

"""Model files taken apart, changed and signed anew: a sha256 is no secret, so content must be checked."""

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
    """What a model file says, with its tensors by name as "tensors", which safetensors has in any order."""
    header = json.loads(whole[8 : 8 + int.from_bytes(whole[:8], "little")])
    content = json.loads(header["__metadata__"]["makemore"])
    assert isinstance(content, dict)
    return content | {"tensors": dict(sorted(safetensors.torch.load(whole).items()))}


def forged(content: dict[str, Any]) -> bytes:
    """A sound file that says so; what is no tensor among the tensors is left out."""
    tensors = content.get("tensors")
    said = {key: value for key, value in content.items() if key != "tensors"}
    digits = sys.get_int_max_str_digits()
    sys.set_int_max_str_digits(0)
    try:
        text = json.dumps(said, default=str)
    finally:
        sys.set_int_max_str_digits(digits)
    known = tensors.items() if isinstance(tensors, dict) else ()
    copies = {
        str(name): value.clone().contiguous() for name, value in known if isinstance(value, torch.Tensor)
    }
    encodable = {name.encode("utf-8", "replace").decode(): value for name, value in copies.items()}
    return signed(safetensors.torch.save(encodable, {"makemore": text}))


def with_header(whole: bytes, change: Callable[[dict[str, Any]], object]) -> bytes:
    """The file with its safetensors header changed, and signed; the tensors' bytes stay."""
    end = 8 + int.from_bytes(whole[:8], "little")
    header = json.loads(whole[8:end])
    change(header)
    text = json.dumps(header).encode()
    return signed(len(text).to_bytes(8, "little") + text + whole[end:])


def signed(whole: bytes) -> bytes:
    """The bytes with a digest that is right, if there is a place for one."""
    place = re.search(rb'sha256\\": \\"([0-9a-f]{64})', whole)
    if place is None:
        return whole
    unsigned = whole[: place.start(1)] + NO_DIGEST + whole[place.end(1) :]
    digest = hashlib.sha256(unsigned).hexdigest().encode()
    return whole[: place.start(1)] + digest + whole[place.end(1) :]

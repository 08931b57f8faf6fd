"""Settings, each declared once with its default, range and help.

Flags, range errors, ``--help``, the printed header and the rules of a resumed run follow from the
declarations. This module does not import torch.
"""

from __future__ import annotations

import math
from collections.abc import Collection
from dataclasses import dataclass, field, fields, replace
from typing import Any, get_type_hints

from makemore.core.errors import UsageError

FIRST = "what most people need"
"""The group of flags that comes first in the help."""


@dataclass(frozen=True)
class Knob:
    """The declaration of a setting.

    ``default_text`` describes a default that depends on other settings. ``may_change`` allows a resumed run
    to have another value. ``type`` is int, float, str, bool, or tuple for several texts.
    """

    default: Any
    help: str
    low: float = -math.inf
    high: float = math.inf
    choices: Collection[str] = ()
    default_text: str = ""
    group: str = ""
    metavar: str | None = None
    may_change: bool = False
    repeated: bool = False
    name: str = ""
    type: type = str

    @property
    def default_label(self) -> str:
        """The default as the help shows it."""
        if self.default_text or self.default in (None, ()) or self.type is bool:
            return self.default_text
        return f"{self.default:,}" if self.type is int and self.default >= 10_000 else f"{self.default}"

    def normalized(self, value: Any) -> Any:
        """The value as the settings have it: of several texts a tuple, for one text or for JSON's list."""
        if self.type is tuple and isinstance(value, str | list):
            return (value,) if isinstance(value, str) else tuple(value)
        return value

    @property
    def needed(self) -> str:
        """Which values the setting may have, to follow "must be"."""
        if self.type is bool:
            return "True or False"
        if self.type is tuple:
            return "one or more texts"
        if self.type is str:
            return f"one of {', '.join(self.choices)}" if self.choices else "text"
        kind = "a whole number" if self.type is int else "a number"
        return f"{kind} from {number_text(self.low)} to {number_text(self.high)}"

    def check(self, value: Any, called: str = "") -> None:
        """Raise UsageError unless the value has the right type and range.

        ``called`` is what the message calls the setting, by default its name.
        """
        value = self.normalized(value)
        if value is None and self.default is None:
            return
        types = (int, float) if self.type is float else (self.type,)
        fits = isinstance(value, str) if self.type is str else type(value) in types
        if self.type is tuple:
            fits = fits and all(isinstance(text, str) for text in value)
        elif self.type in (int, float):
            fits = fits and self.low <= value <= self.high
        elif self.choices:
            fits = fits and value in self.choices
        if not fits:
            raise UsageError(f"{called or self.name} must be {self.needed}, got {value!r}")


def number_text(value: float) -> str:
    """A number for a message.

    >>> number_text(10**9), number_text(1e9), number_text(0.5), number_text(1e30)
    ('1,000,000,000', '1,000,000,000', '0.5', '1e+30')
    """
    is_whole = isinstance(value, int) or (abs(value) < 1e15 and value.is_integer())
    return f"{int(value):,}" if is_whole else f"{value:g}"


def knob(default: Any, help: str, low: float = -math.inf, high: float = math.inf, **more: Any) -> Any:
    """A dataclass field that is a setting; ``more`` are further fields of ``Knob``."""
    return field(default=default, metadata={"knob": Knob(default, help, low, high, **more)})


@dataclass(frozen=True)
class Knobs:
    """The base class of dataclasses whose fields are settings: int, float, str, bool, or ``tuple[str, ...]``.

    Raises UsageError on a value of another type or out of range.
    """

    def __post_init__(self) -> None:
        for name, knob in self.knobs().items():
            value = knob.normalized(getattr(self, name))
            knob.check(value)
            object.__setattr__(self, name, value)

    @classmethod
    def knobs(cls) -> dict[str, Knob]:
        """The declarations of the fields, by name."""
        for plain in (f.name for f in fields(cls) if "knob" not in f.metadata):
            raise TypeError(f"{cls.__name__}.{plain} needs a default, a help and a range, from knob()")
        hints = get_type_hints(cls)
        texts = tuple[str, ...]
        kinds: dict[Any, type] = {int: int, float: float, str: str, bool: bool, texts: tuple}
        types = kinds | {hint | None: type_ for hint, type_ in kinds.items()}
        own = {f.name: f.metadata["knob"] for f in fields(cls)}
        return {name: replace(knob, name=name, type=types[hints[name]]) for name, knob in own.items()}

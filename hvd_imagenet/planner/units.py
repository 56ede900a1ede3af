"""Rates and sizes as people write them: 50Gb, 6.25GB/s, 110kB; and as they are shown."""

from __future__ import annotations

import math
import re

from hvd_imagenet.errors import SettingsError

DECIMAL = {"": 1, "k": 10**3, "m": 10**6, "g": 10**9, "t": 10**12}
BINARY = {"ki": 2**10, "mi": 2**20, "gi": 2**30, "ti": 2**40}
QUANTITY = re.compile(r"\s*([+-]?[0-9.]+(?:[eE][+-]?[0-9]+)?)\s*([a-zA-Z/]*)\s*")
RATE_UNIT = re.compile(r"([kKmMgGtT]i?)?(b|B|[bB]its?|[bB]ytes?)(/s|ps)?")
BITS_OR_BYTES = re.compile(r"([kKmMgGtT]?|[mgt][bB])(/s|ps)?")  # which may be meant as either
SIZE_UNIT = re.compile(r"([kKMGT]i?)?B?")
SENSIBLE = 1e-9, 1e15  # what lies outside is a slip, and would overflow somewhere
STEPS = ((10**12, "T"), (10**9, "G"), (10**6, "M"), (10**3, "k"), (1, ""))
RATE_REMEDY = "give a rate above 0, such as 50Gbit/s or 6.25GB/s"
SIZE_REMEDY = "give a number of bytes above 0, such as 110kB"


def sensible(value: float, *, zero: bool = False) -> bool:
    """Whether a number is finite and above 0, or 0 where that is allowed, and of a size that makes sense.

    A whole number may have more digits than a float can take.
    """
    return SENSIBLE[0] <= value <= SENSIBLE[1] or (zero and value == 0)


def number(option: str, text: str, remedy: str, *, zero: bool = False) -> float:
    """A number above 0, or from 0 on.

    Raises:
        SettingsError: it is none; the message names the option and says the remedy.
    """
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not sensible(value, zero=zero):
        raise wrong(option, text, remedy)
    return value


def whole(option: str, text: str, remedy: str) -> int:
    """A whole number above 0.

    Raises:
        SettingsError: it is none.
    """
    if not (text.isascii() and text.isdigit() and sensible(_float(text))):
        raise wrong(option, text, remedy)
    return int(text)


def rate(option: str, text: str) -> float:
    """Bytes per second of a rate such as 50Gb, 50Gbit/s, 50gbit, 6.25GB/s or 2GiB/s.

    A small b is a bit and a capital B a byte, as long as the letter before it is a capital, too: 50gb may be either.

    Raises:
        SettingsError: it has no unit, an ambiguous or an unknown one, or is not above 0.
    """
    matched = QUANTITY.fullmatch(text)
    figure, unit = matched.groups() if matched else ("nan", "")
    if not sensible(_float(figure)):
        raise wrong(option, text, RATE_REMEDY)
    if BITS_OR_BYTES.fullmatch(unit):
        size = unit[:1].upper() or "G"
        raise wrong(option, text, f"bits or bytes? write {figure}{size}bit/s for bits, {figure}{size}B/s for bytes")
    parts = RATE_UNIT.fullmatch(unit)
    if parts is None:
        raise wrong(option, text, RATE_REMEDY)
    bits = parts[2] == "b" or parts[2].lower().startswith("bit")
    value = _float(figure) * (DECIMAL | BINARY)[(parts[1] or "").lower()] / (8 if bits else 1)
    if not sensible(value):
        raise wrong(option, text, RATE_REMEDY)
    return value


def size(option: str, text: str) -> float:
    """Bytes of a size such as 110kB, 0.1MB, 64KiB, or a number of bytes.

    Raises:
        SettingsError: it is none, or not above 0.
    """
    matched = QUANTITY.fullmatch(text)
    parts = SIZE_UNIT.fullmatch(matched[2]) if matched else None
    value = _float(matched[1]) * (DECIMAL | BINARY)[(parts[1] or "").lower()] if parts else math.nan
    if not sensible(value):
        raise wrong(option, text, SIZE_REMEDY)
    return value


def wrong(option: str, text: str, remedy: str) -> SettingsError:
    """What to raise for an option's value."""
    return SettingsError(f"{option}: {text or 'empty'}; {remedy}")


def bits_per_second(rate: float) -> str:
    """Bytes per second as 50 Gbit/s."""
    return f"{_scaled(8 * rate)}bit/s"


def bytes_per_second(rate: float) -> str:
    """Bytes per second as 6.25 GB/s."""
    return f"{_scaled(rate)}B/s"


def in_bytes(count: float) -> str:
    """Bytes as 102 MB."""
    return f"{_scaled(count)}B"


def milliseconds(seconds: float) -> str:
    """Seconds as 0.21 ms, 3.2 ms or 120 ms."""
    value = 1000 * seconds
    return f"{value:,.0f} ms" if value >= 9.95 else f"{value:.1f} ms" if value >= 0.995 else f"{value:.2g} ms"


def duration(seconds: float) -> str:
    """Seconds as 45 s, 12 min, 5.3 h or 3.1 days: from two of a unit on, hours from one."""
    if seconds < 120:
        return f"{seconds:.0f} s"
    if seconds < 3600:
        return f"{seconds / 60:.0f} min"
    return f"{seconds / 3600:.1f} h" if seconds < 2 * 86400 else f"{seconds / 86400:,.1f} days"


def _float(figure: str) -> float:
    try:
        return float(figure)
    except ValueError:  # 1..5
        return math.nan


def _scaled(value: float) -> str:
    """A number with three digits and its prefix: 12.8 G, 102 M."""
    factor, prefix = next((step for step in STEPS if value >= 0.9995 * step[0]), STEPS[-1])
    shown = value / factor
    digits = 0 if shown >= 99.95 else 1 if shown >= 9.995 else 2
    text = f"{shown:,.{digits}f}"
    return f"{text.rstrip('0').rstrip('.') if '.' in text else text} {prefix}"

"""Which calls were inlined at a machine address: from DWARF 4's entries for functions."""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

from transpile.verify.msl.lines import Reader, section

_UNIT, _INLINED = 0x11, 0x1D  # tags
_LOW, _HIGH, _RANGES, _CALL_FILE, _CALL_LINE = 0x11, 0x12, 0x55, 0x58, 0x59  # attributes
_ADDRESS = 0x01  # a form
#: struct codes of the forms of fixed size; the rest is read in _value
_FIXED = {
    _ADDRESS: "Q", 0x05: "H", 0x06: "I", 0x07: "Q", 0x0B: "B", 0x0C: "B", 0x0E: "I", 0x10: "I",
    0x11: "B", 0x12: "H", 0x13: "I", 0x14: "Q", 0x17: "I", 0x20: "Q",
}  # fmt: skip


class Call(NamedTuple):
    """Code of an inlined function: half-open address ranges, and where it was called."""

    ranges: tuple[tuple[int, int], ...]
    file: int  # number in the line table
    line: int

    def holds(self, address: int) -> bool:
        return any(low <= address < high for low, high in self.ranges)


class InlineTable:
    """The inlined calls of a shared library, outer ones before those inside of them."""

    def __init__(self, path: str) -> None:
        with open(path, "rb") as stream:
            image = stream.read()
        self.info = section(image, b".debug_info")
        self.abbreviations = section(image, b".debug_abbrev")
        self.ranges = section(image, b".debug_ranges")
        self.calls = list(self._calls())

    def callers(self, address: int, file: int) -> list[int]:
        """Lines of ``file`` whose calls led to the address, the innermost first."""
        return [c.line for c in reversed(self.calls) if c.file == file and c.holds(address)]

    def _calls(self) -> Iterator[Call]:
        at = 0
        while at < len(self.info):
            reader = Reader(self.info, at)
            end = at + 4 + reader.take("I")
            reader.take("H")  # version
            kinds = self._kinds(reader.take("I"))
            reader.take("B")  # size of an address
            base = 0
            while reader.at < end:
                code = reader.leb()
                if code == 0:
                    continue
                tag, attributes = kinds[code]
                values = {name: (form, _value(reader, form)) for name, form in attributes}
                if tag == _UNIT:
                    base = values.get(_LOW, (0, 0))[1]
                elif tag == _INLINED and _CALL_LINE in values:
                    ranges = self._ranges_of(values, base)
                    yield Call(ranges, values[_CALL_FILE][1], values[_CALL_LINE][1])
            at = end

    def _kinds(self, at: int) -> dict[int, tuple[int, list[tuple[int, int]]]]:
        """Tag and (attribute, form) pairs by abbreviation code."""
        reader, found = Reader(self.abbreviations, at), {}
        while code := reader.leb():
            tag = reader.leb()
            reader.take("B")  # has children
            attributes = []
            while (pair := (reader.leb(), reader.leb())) != (0, 0):
                attributes.append(pair)
            found[code] = tag, attributes
        return found

    def _ranges_of(
        self, values: dict[int, tuple[int, int]], base: int
    ) -> tuple[tuple[int, int], ...]:
        if _RANGES not in values:
            low, (form, high) = values[_LOW][1], values[_HIGH]
            return ((low, high if form == _ADDRESS else low + high),)
        reader, found = Reader(self.ranges, values[_RANGES][1]), []
        while (pair := (reader.take("Q"), reader.take("Q"))) != (0, 0):
            found.append((base + pair[0], base + pair[1]))
        return tuple(found)


def _value(reader: Reader, form: int) -> int:
    if form in _FIXED:
        return reader.take(_FIXED[form])
    if form == 0x08:  # string
        reader.text()
    elif form in (0x0D, 0x0F, 0x15):  # sdata, udata, ref_udata
        return reader.leb(signed=form == 0x0D)
    elif form in (0x09, 0x18):  # block, exprloc
        reader.at += reader.leb()
    elif form == 0x0A:  # block1
        reader.at += reader.take("B")
    elif form != 0x19:  # flag_present
        raise ValueError(f"DWARF form {form:#x}")
    return 0

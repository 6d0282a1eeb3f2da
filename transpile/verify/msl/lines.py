"""Source lines of machine addresses: the DWARF 4 line table of a shared library."""

from __future__ import annotations

import bisect
import struct
from collections.abc import Iterator
from typing import NamedTuple


class Row(NamedTuple):
    """From ``address`` on, code belongs to ``line`` of file number ``file``."""

    address: int
    file: int
    line: int


class LineTable:
    """Line numbers by address relative to the library's start. ``files`` are names by number."""

    def __init__(self, path: str) -> None:
        with open(path, "rb") as stream:
            image = stream.read()
        self.files: list[str] = []
        self.rows = sorted(self._rows(section(image, b".debug_line")))
        self.addresses = [row.address for row in self.rows]

    def number(self, file: str) -> int:
        """A file's number; 0 if it is not there."""
        return next((i for i, name in enumerate(self.files) if name == file), 0)

    def line(self, address: int, file: str) -> int | None:
        """The line of ``file`` at or, where the code is another file's, next before ``address``."""
        number = self.number(file)
        at = bisect.bisect_right(self.addresses, address) - 1
        while at >= 0 and (self.rows[at].file != number or not self.rows[at].line):
            at -= 1
        return self.rows[at].line if at >= 0 else None

    def _rows(self, data: bytes) -> Iterator[Row]:
        at = 0
        while at < len(data):
            reader = Reader(data, at)
            length = reader.take("I")
            end = reader.at + length
            program = _Program(reader)
            self.files = program.files
            yield from program.rows(end)
            at = end


def section(image: bytes, name: bytes) -> bytes:
    """Contents of a section of a 64-bit little-endian ELF file."""
    (table,) = struct.unpack_from("<Q", image, 0x28)
    size, count, names_at = struct.unpack_from("<HHH", image, 0x3A)
    headers = [struct.unpack_from("<IIQQQQ", image, table + i * size) for i in range(count)]
    names = headers[names_at]
    for header in headers:
        start = names[4] + header[0]
        if image[start : start + len(name) + 1] == name + b"\0":
            return image[header[4] : header[4] + header[5]]
    return b""


class Reader:
    """Numbers and texts, one after the other."""

    def __init__(self, data: bytes, at: int) -> None:
        self.data, self.at = data, at

    def take(self, form: str) -> int:
        """A number of a struct format."""
        (value,) = struct.unpack_from("<" + form, self.data, self.at)
        self.at += struct.calcsize("<" + form)
        return int(value)

    def leb(self, signed: bool = False) -> int:
        """A number of variable length."""
        value, shift = 0, 0
        while True:
            byte = self.take("B")
            value |= (byte & 0x7F) << shift
            shift += 7
            if not byte & 0x80:
                return value - (1 << shift) if signed and byte & 0x40 else value

    def text(self) -> str:
        """A text up to its zero byte."""
        end = self.data.index(b"\0", self.at)
        found = self.data[self.at : end].decode(errors="replace")
        self.at = end + 1
        return found


class _Program:
    """One unit's line number program (DWARF 4, section 6.2)."""

    def __init__(self, reader: Reader) -> None:
        self.reader = reader
        reader.take("H")  # version
        header = reader.take("I")
        start = reader.at + header
        self.least, _, _, self.base, self.span, self.first = (reader.take(f) for f in "BBBbBB")
        self.lengths = [reader.take("B") for _ in range(self.first - 1)]
        while reader.data[reader.at]:
            reader.text()  # folders
        reader.at += 1
        self.files = [""]
        while reader.data[reader.at]:
            self.files.append(reader.text())
            for _ in range(3):
                reader.leb()
        reader.at = start
        self._reset()

    def _reset(self) -> None:
        self.address, self.file, self.line = 0, 1, 1

    def _row(self) -> Row:
        return Row(self.address, self.file, self.line)

    def rows(self, end: int) -> Iterator[Row]:
        while self.reader.at < end:
            opcode = self.reader.take("B")
            if opcode >= self.first:
                self.address += (opcode - self.first) // self.span * self.least
                self.line += self.base + (opcode - self.first) % self.span
                yield self._row()
            elif opcode == 0:
                yield from self._extended()
            elif opcode == 1:  # copy
                yield self._row()
            else:
                self._standard(opcode)

    def _extended(self) -> Iterator[Row]:
        size = self.reader.leb()
        following = self.reader.at + size
        opcode = self.reader.take("B")
        if opcode == 1:  # end of a sequence
            yield Row(self.address, 0, 0)
            self._reset()
        elif opcode == 2:
            self.address = self.reader.take("Q")
        self.reader.at = following

    def _standard(self, opcode: int) -> None:
        if opcode == 2:
            self.address += self.reader.leb() * self.least
        elif opcode == 3:
            self.line += self.reader.leb(signed=True)
        elif opcode == 4:
            self.file = self.reader.leb()
        elif opcode == 8:
            self.address += (255 - self.first) // self.span * self.least
        elif opcode == 9:
            self.address += self.reader.take("H")
        else:
            for _ in range(self.lengths[opcode - 1]):
                self.reader.leb()

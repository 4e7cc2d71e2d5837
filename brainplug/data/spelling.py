"""How spreadsheets and other systems write lists: encodings, separators, decimal commas, paths."""

import math
import os
import re
import urllib.parse
from collections.abc import Sequence
from typing import TextIO

from brainplug.errors import DataError

SEPARATORS = ",;\t|"
WINDOWS = "cp1252"  # of western European Windows
BOTH_MARKS = (b"\xff\xfe", b"\xfe\xff")  # byte-order marks of UTF-16
ARCHIVE = b"PK\x03\x04"  # how workbooks begin, too
DRIVE = re.compile(r"[A-Za-z]:[\\/]|\\\\")


def open_table(path: str) -> TextIO:
    """Opens a list in UTF-8 or UTF-16, with or without a byte-order mark.

    Bytes that are not UTF-8 occur in file names; they are carried through, as Python does for paths.
    """
    with open(path, "rb") as file:
        head = file.read(256)
    if head.startswith(ARCHIVE):
        problem = "It is a workbook or an archive, no CSV file."
        raise DataError(f"The table {path} was asked for.", problem, "Have the spreadsheet save it as CSV in UTF-8.")
    if head.startswith(BOTH_MARKS):
        return open(path, newline="", encoding="utf-16")
    for encoding, zeros in (("utf-16-le", head[1::2]), ("utf-16-be", head[::2])):
        if zeros and not any(zeros):
            return open(path, newline="", encoding=encoding)
    return open(path, newline="", encoding="utf-8-sig", errors="surrogateescape")


def separator_of(line: str, columns: Sequence[str]) -> str:
    r"""The separator of a header: the first with which it has all columns, else a comma.

    Example
    -------
    >>> separator_of("path;label\n", ["path", "label"]), separator_of("sep=;\n", ["path"])
    (';', ';')
    """
    if re.fullmatch("sep=.", line.strip("\r\n")):
        return line[4]
    for separator in SEPARATORS:
        if set(columns) <= {name.strip('"') for name in line.strip("\r\n").split(separator)}:
            return separator
    return SEPARATORS[0]


def decimal(text: str) -> float:
    """A number with a decimal point, or with a decimal comma where that has one meaning.

    Example
    -------
    >>> decimal("1.25"), decimal("1,25"), decimal("0,125")
    (1.25, 1.25, 0.125)
    >>> decimal("1,250")
    Traceback (most recent call last):
    ValueError: '1,250' may be 1.250 or 1250
    """
    if re.fullmatch(r"[+-]?[1-9]\d{0,2},\d{3}", text):
        raise ValueError(f"{text!r} may be {text.replace(',', '.')} or {text.replace(',', '')}")
    number = float(text.replace(",", ".") if re.fullmatch(r"[+-]?\d*,\d+", text) else text)
    if not math.isfinite(number):
        raise ValueError(f"{text!r} is no number of seconds")
    return number


def local_path(path: str, folder: str) -> str:
    r"""What a path of a list is called here: ``file:`` addresses, back slashes and cp1252 are translated.

    A name that exists as it stands is left alone, and so is one whose translations do not exist.

    Example
    -------
    >>> local_path("file:///audio/a%20b.wav", "")
    '/audio/a b.wav'
    """
    if path.lower().startswith("file:"):
        address = urllib.parse.urlsplit(path)
        if address.netloc in ("", "localhost"):
            path = urllib.parse.unquote(address.path)
    if path.isascii() and "\\" not in path:
        return path
    names = [path, path.replace("\\", "/")]
    if not is_text(path):
        names += [_as_windows(name) for name in names]
    return next((name for name in names if os.path.exists(os.path.join(folder, name))), path)


def why_not_here(path: str) -> str:
    """Why a path of a list names no file here, where its spelling tells; else empty.

    Example
    -------
    >>> why_not_here("C:/audio/a.wav")
    'it begins on a drive of Windows'
    """
    if DRIVE.match(path):
        return "it begins on a drive of Windows"
    if path.lower().startswith("file:"):
        return "it names another machine"
    return "" if is_text(path) else why_no_text(path)


def why_no_text(text: str) -> str:
    r"""Why a field is no text, and in which encoding it would be one.

    Example
    -------
    >>> why_no_text(b"M\xf6we".decode(errors="surrogateescape"))
    "the byte 0xF6 is not UTF-8; in Windows' cp1252 it would be 'Möwe'"
    """
    position = next(index for index, letter in enumerate(text) if not is_text(letter))
    code = ord(text[position])
    if not 0xDC80 <= code <= 0xDCFF:
        return f"U+{code:04X} is half a character"
    return f"the byte 0x{code - 0xDC00:02X} is not UTF-8; in Windows' {WINDOWS} it would be {_as_windows(text)!r}"


def is_text(text: str) -> bool:
    """Whether a text has no lone surrogates, which stand for bytes that are not UTF-8."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def _as_windows(text: str) -> str:
    return text.encode(errors="surrogateescape" if _escaped(text) else "replace").decode(WINDOWS, errors="replace")


def _escaped(text: str) -> bool:
    return not re.search("[\ud800-\udc7f\udd00-\udfff]", text)

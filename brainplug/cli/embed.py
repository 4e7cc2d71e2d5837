"""brainplug embed: turns files into the pooled vectors that a run's classifier reads."""

import argparse
import contextlib
import os
import struct
from collections.abc import Sequence
from pathlib import Path
from tokenize import TokenError

import numpy as np

from brainplug.cli.predict import adapter_of, add_common_arguments, compute, hold_output, open_common
from brainplug.cli.rows import CLIP_COLUMNS, RowFile, clip_columns
from brainplug.data.manifest import Clip
from brainplug.errors import CheckpointError, ConfigError, DataError
from brainplug.inference import Classifier
from brainplug.inference.classifier import Embedding

HEADER_BYTES = 128  # room for any number of rows


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the command's arguments."""
    add_common_arguments(parser)
    parser.add_argument("--output", required=True, help="a .npy file; a .csv beside it lists the clips of its rows")


def run(arguments: argparse.Namespace) -> int:
    """Writes a vector for each clip; returns 1 if there are clips that cannot be read, else 0."""
    path = Path(arguments.output)
    if path.suffix != ".npy":
        raise ConfigError(f"Vectors in {path} were asked for.", "They are saved as .npy.", "Write --output=FILE.npy")
    clips, model = open_common(arguments)
    if not isinstance(model, Classifier):
        problem = "The run there recognises speech."
        raise CheckpointError(f"Vectors of {arguments.run} were asked for.", problem, "Name a run of classification")
    with hold_output(arguments.output):
        return _embed(clips, model, path, arguments.batch_size)


def _embed(clips: Sequence[Clip], model: Classifier, path: Path, batch_size: int) -> int:
    listing = path.with_suffix(".csv")
    if path.exists() and not listing.exists():
        problem = f"The file exists, without {listing}, so it is no earlier result."
        raise DataError(f"Vectors in {path} were asked for.", problem, "Write another --output")
    with contextlib.ExitStack() as files:
        rows = files.enter_context(contextlib.closing(RowFile(listing, CLIP_COLUMNS, adapter_of(model), as_json=False)))
        vectors = files.enter_context(contextlib.closing(VectorFile(path, model.model.backbone.dim, rows.rows)))

        def write(embedding: Embedding) -> None:
            vectors.append(embedding.vector.numpy())
            rows.write(clip_columns(embedding))  # last: a vector without its row is dropped

        return compute(clips, rows.done, lambda left, on_error: model.embed_files(left, batch_size, on_error), write)


class VectorFile:
    """A .npy file of float32 vectors of width `dim` that grows row by row, and can be loaded at any time.

    Of an existing file the first `rows` rows stay; a file with fewer rows, or other ones, raises a `DataError`.
    """

    def __init__(self, path: Path, dim: int, rows: int):
        self.dim, self.rows = dim, rows
        if rows or (path.exists() and path.stat().st_size > HEADER_BYTES):
            _check_vectors(path, dim, rows)
        self._file = path.open("r+b" if path.exists() else "w+b")
        self._file.truncate(HEADER_BYTES + 4 * dim * rows)
        self._write_header()

    def append(self, vector: np.ndarray) -> None:
        """Adds a row, then counts it in the header."""
        self._file.seek(HEADER_BYTES + 4 * self.dim * self.rows)
        self._file.write(vector.astype("<f4").tobytes())
        self.rows += 1
        self._write_header()
        os.fsync(self._file.fileno())  # after a power cut no listed row is empty

    def close(self) -> None:
        """Closes the file."""
        self._file.close()

    def _write_header(self) -> None:
        text = f"{{'descr': '<f4', 'fortran_order': False, 'shape': ({self.rows}, {self.dim}), }}"
        magic = np.lib.format.magic(1, 0)
        length = HEADER_BYTES - len(magic) - 2
        self._file.seek(0)
        self._file.write(magic + struct.pack("<H", length) + text.ljust(length - 1).encode() + b"\n")
        self._file.flush()


def _check_vectors(path: Path, dim: int, rows: int) -> None:
    asked = f"The vectors in {path} were to be continued."
    write = "Write another --output, or remove this one and its .csv"
    try:
        vectors = np.load(path, mmap_mode="r", allow_pickle=False)
    except (OSError, EOFError, ValueError, OverflowError, SyntaxError, TokenError) as error:  # of a broken header
        raise DataError(asked, f"The file cannot be read: {error}.", write) from error
    if vectors.dtype != "<f4" or vectors.ndim != 2 or vectors.shape[1] != dim or vectors.offset != HEADER_BYTES:
        problem = f"They have the shape {vectors.shape} and the type {vectors.dtype}, not [clips, {dim}] and float32."
        raise DataError(asked, problem, write)
    if len(vectors) < rows:
        raise DataError(asked, f"There are {len(vectors)}, and {rows} rows in the .csv.", write)

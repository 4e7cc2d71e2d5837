"""What the structure of an MP3, Ogg, NIST or WAV file says of the audio that it stores, whatever its headers announce.

libsndfile believes an MP3 file's first header, or guesses where there is none, and decodes the first of several chained
Ogg streams. Counting MP3 frames and Ogg pages decodes nothing.
"""

import functools
import mmap
import os
import re
import struct
from collections.abc import Iterator
from dataclasses import dataclass

# MPEG audio, layer III (ISO 11172-3, 13818-3): kbit/s by the header's index, for MPEG 1 and for MPEG 2 and 2.5.
BITRATES = {
    True: (0, 32, 40, 48, 56, 64, 80, 96, 112, 128, 160, 192, 224, 256, 320),
    False: (0, 8, 16, 24, 32, 40, 48, 56, 64, 80, 96, 112, 128, 144, 160),
}
RATES = {3: (44100, 48000, 32000), 2: (22050, 24000, 16000), 0: (11025, 12000, 8000)}  # Hz, by the version's bits
OGG_PAGE = struct.Struct("<4sBBqIIIB")  # RFC 3533, section 6: mark, version, flags, granule, serial, number, sum, parts
BEGINS, ENDS = 2, 4  # flags of a page
OPUS_RATE = 48000  # of Opus's granules, whatever it encodes


@dataclass(frozen=True)
class StoredLength:
    """The seconds that a file stores, why it is known to be cut (empty where it is not), and whether streams follow."""

    seconds: float
    cut: str = ""
    chained: bool = False


def stored_length(path: str, form: str) -> StoredLength | None:
    """Measures a file of a format in `MEASURES`; None for others, and where the structure does not say."""
    if form not in MEASURES:
        return None
    status = os.stat(path)
    return _measured(path, form, status.st_size, status.st_mtime_ns)


@functools.lru_cache(maxsize=256)
def _measured(path: str, form: str, _size: int, _time: int) -> StoredLength | None:
    """Kept for files that many clips are parts of; a changed file has another size or time."""
    with open(path, "rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
        return MEASURES[form](data)


# MP3


@dataclass(frozen=True)
class _Header:
    version: int
    rate: int  # Hz
    size: int  # bytes of the frame

    @property
    def samples(self) -> int:
        return 1152 if self.version == 3 else 576


def _header(data: mmap.mmap, start: int) -> _Header | None:
    """The header of a frame of layer III; None where there is none, and for a free bit rate."""
    four = data[start : start + 4]
    if len(four) < 4 or four[0] != 0xFF or four[1] >> 5 != 0b111 or (four[1] >> 1) & 3 != 1:
        return None
    version, bitrate, rate, padding = (four[1] >> 3) & 3, four[2] >> 4, (four[2] >> 2) & 3, (four[2] >> 1) & 1
    if version == 1 or rate == 3 or bitrate in (0, 15):
        return None
    hertz = RATES[version][rate]
    factor = 144 if version == 3 else 72
    return _Header(version, hertz, factor * 1000 * BITRATES[version == 3][bitrate] // hertz + padding)


def _mp3_length(data: mmap.mmap) -> StoredLength | None:
    first, samples, missing = None, 0, 0
    for start, header in _mp3_frames(data):
        if first is None:
            first = start, header
        samples += header.samples
        missing = max(0, start + header.size - len(data))
    if first is None:
        return None
    start, header = first
    announced = _announced_frames(data[start : start + header.size])
    stored = samples // header.samples - (announced is not None)  # the frame that announces holds no audio
    seconds = stored * header.samples / header.rate
    cut = ""
    if announced is not None and stored < announced:
        cut = f"{stored} of the {announced} announced MP3 frames are there"
    elif missing:
        cut = f"the last MP3 frame lacks {missing} bytes"
    return StoredLength(seconds, cut)


def _mp3_frames(data: mmap.mmap) -> Iterator[tuple[int, _Header]]:
    """Frames of one sample rate, which are each followed by another one or by the end of the file or of its audio."""
    start = _after_tag(data, 0)
    rate = None
    while 0 <= start < len(data) - 4:
        header = _header(data, start)
        if header and (header.rate == rate if rate else _is_followed(data, start + header.size)):
            rate = header.rate
            yield start, header
            start = _after_tag(data, start + header.size)
        else:
            start = data.find(b"\xff", start + 1)


def _is_followed(data: mmap.mmap, end: int) -> bool:
    return end >= len(data) or _header(data, end) is not None


def _after_tag(data: mmap.mmap, start: int) -> int:
    """Where the audio goes on behind an ID3v2 tag, which may hold pictures; its size has 7 bits a byte."""
    tag = data[start : start + 10]
    if len(tag) < 10 or tag[:3] != b"ID3":
        return start
    return start + 10 + sum((byte & 0x7F) << shift for byte, shift in zip(tag[6:], (21, 14, 7, 0), strict=True))


def _announced_frames(frame: bytes) -> int | None:
    """The number of frames that the header of Xing or of Fraunhofer (VBRI) announces, in the first frame."""
    for mark in (b"Xing", b"Info"):
        position = frame.find(mark)
        if position >= 0 and len(frame) >= position + 12 and frame[position + 7] & 1:
            return int.from_bytes(frame[position + 8 : position + 12], "big")
    position = frame.find(b"VBRI")
    return int.from_bytes(frame[position + 14 : position + 18], "big") if 0 <= position <= len(frame) - 18 else None


# Ogg


@dataclass
class _Stream:
    """One logical stream of an Ogg file."""

    rate: int | None = None  # Hz of its granules
    skipped: int = 0  # granules before the first sample
    granule: int = 0
    has_ended: bool = False


def _ogg_length(data: mmap.mmap) -> StoredLength | None:
    streams: dict[tuple[int, int], _Stream] = {}  # by serial number, and how many streams had it before
    serials: dict[int, int] = {}
    has_data = chained = False
    cut, position = "", data.find(b"OggS")
    while 0 <= position <= len(data) - OGG_PAGE.size:
        _, _, flags, granule, serial, _, _, parts = OGG_PAGE.unpack_from(data, position)
        body = position + OGG_PAGE.size + parts
        size = sum(data[position + OGG_PAGE.size : body])
        if flags & BEGINS:
            chained |= has_data
            serials[serial] = serials.get(serial, -1) + 1
            streams[serial, serials[serial]] = _described(data[body : body + 32])
        has_data |= not flags & BEGINS
        stream = streams.setdefault((serial, serials.setdefault(serial, 0)), _Stream())
        if granule > 0:
            stream.granule = granule
        stream.has_ended |= bool(flags & ENDS)
        if body + size > len(data):
            cut = f"the last Ogg page lacks {body + size - len(data)} bytes"
        position = data.find(b"OggS", body + size)
    if not streams:
        return None
    audio = [stream for stream in streams.values() if stream.rate]
    if not cut and any(not stream.has_ended for stream in audio):
        cut = "the Ogg stream has no last page"
    return StoredLength(sum(_seconds(stream) for stream in audio), cut, chained)


def _described(packet: bytes) -> _Stream:
    """The rate of a stream, from its first packet; none for what is no Vorbis and no Opus."""
    if packet.startswith(b"\x01vorbis"):
        return _Stream(rate=int.from_bytes(packet[12:16], "little"))
    if packet.startswith(b"OpusHead"):
        return _Stream(rate=OPUS_RATE, skipped=int.from_bytes(packet[10:12], "little"))
    return _Stream()


def _seconds(stream: _Stream) -> float:
    return max(0, stream.granule - stream.skipped) / (stream.rate or OPUS_RATE)


# NIST


def _nist_length(data: mmap.mmap) -> StoredLength | None:
    """Of a SPHERE file, whose header is text."""
    fields = dict(re.findall(rb"^(\w+) -i (\d+)", data[:1024], re.MULTILINE))
    if not {b"sample_count", b"sample_rate", b"sample_n_bytes"} <= fields.keys():
        return None
    count, rate, width = (int(fields[name]) for name in (b"sample_count", b"sample_rate", b"sample_n_bytes"))
    missing = 1024 + count * width * int(fields.get(b"channel_count", 1)) - len(data)
    cut = f"{missing} bytes of its {count} samples are missing" if missing > 0 else ""
    return StoredLength(count / rate, cut) if rate else None


MEASURES = {"MP3": _mp3_length, "OGG": _ogg_length, "NIST": _nist_length}  # by libsndfile's name of the format


# WAV


def wav_bytes_after_header(path: str) -> int:
    """The bytes behind the header of a WAV file's data, whatever it announces; 0 without one."""
    with open(path, "rb") as file:
        beginning = file.read(2**16)
    position = beginning.find(b"data")
    is_wav = beginning[:4] in (b"RIFF", b"RIFX", b"RF64") and position > 0
    return max(0, os.path.getsize(path) - position - 8) if is_wav else 0

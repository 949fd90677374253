"""A clip's file: what it holds, when each frame is shown, and the frames that somebody asks for, decoded by PyAV.

A frame is numbered by when it is shown; frames that an edit list hides do not count. Only packets that a wanted frame
needs are decoded: none of other groups of pictures, none behind the last wanted frame, and of those between, no frame
that nobody refers to.
"""

import os
import re
import stat
import time
from bisect import bisect_right
from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from formcoach.errors import ClipError

if TYPE_CHECKING:
    import av

NOT_INTERLACED = (0, 1)  # AV_FIELD_UNKNOWN, AV_FIELD_PROGRESSIVE
EIGHT_BITS = frozenset(  # codecs whose pixels have no more, but for some profiles
    {"flv1", "h263", "h264", "hevc", "mjpeg", "mpeg1video", "mpeg2video", "mpeg4", "msmpeg4v3", "vp8", "vp9", "wmv2"}
)
HIDDEN = 2  # AVINDEX_DISCARD_FRAME of libavformat: stored, but an edit list hides it
DEEP_PROFILES = re.compile(r"\b(10|12|16)\b|Profile [23]|4:2:2|Rext")  # High 10, Main 12, VP9's Profile 2 have more
# Codecs of libavcodec in which a frame that no other refers to is marked as such; H.264: nal_ref_idc 0, MPEG: B-frames.
SKIPPING = frozenset({"h264", "mpeg4", "mpeg2video", "mpeg1video"})
TIMED = frozenset({"mov,mp4,m4a,3gp,3g2,mj2", "matroska,webm", "flv"})  # containers that say when each frame is shown
# Header of a NAL unit, ITU-T H.264 7.3.1: its type, of which two are slices, and whether others refer to its picture.
NAL_TYPE, H264_SLICE, H264_IDR, NAL_REFERENCE = 31, 1, 5, 3 << 5
PLAYLISTS = frozenset({"concat", "dash", "hls", "imf", "sdp"})  # texts that name other files, whatever they are called
LOCAL = {"protocol_whitelist": "file"}  # while the format is being found out, nothing else is opened
SAME_RATE = 0.01  # WebM rounds times to milliseconds
KEPT_BYTES = 64 * 2**20  # packets of files up to here stay in memory from counting to decoding


@dataclass(frozen=True)
class VideoInfo:
    """What a file says about its video stream, without decoding it.

    Args:
        frames: number of frames that are shown.
        fps: average frames a second.
        width: in pixels, before rotation metadata.
        height: in pixels, before rotation metadata.
    """

    frames: int
    fps: float
    width: int
    height: int

    @property
    def duration(self) -> float:
        """Seconds."""
        return self.frames / self.fps


@dataclass(frozen=True)
class _Run:
    """Packets to decode one after the other, `first` to `last`; the frames of those that are `wanted` are kept."""

    first: int
    last: int
    wanted: frozenset[int]


class _Table:
    """The packets of a stream in the order in which they are decoded.

    Args:
        packets: with their data, for small files; else none.
        times: when the frame of each is shown, in units of the stream's time base.
        hidden: packets that an edit list hides.
        starts: packets that decoding may begin with, in order; the first one is among them.
        seekable: whether these are all packets that are marked as key frames, so that seeking is exact.
        begins: whether decoding may really begin with the first one; else decoders leave out its frame, or make it up.
    """

    def __init__(self, container: "av.container.InputContainer", stream: "av.VideoStream", keep: bool) -> None:
        self.packets: list[av.Packet] = []
        self.times: list[int | None] = []
        self.hidden: set[int] = set()
        self.starts: list[int] = []
        self.seekable = True
        self.begins = False
        self._timed = container.format.name in TIMED
        self._reorders = stream.codec_context.has_b_frames
        begins = _start_test(stream)
        for packet in container.demux(stream):
            if not packet.size:
                continue
            number = len(self.times)
            if packet.is_discard:
                self.hidden.add(number)
            if packet.is_keyframe and begins(packet):
                self.starts.append(number)
                self.begins |= number == 0
            elif number == 0:
                self.starts.append(number)
            elif packet.is_keyframe:
                self.seekable = False
            self.times.append(packet.pts)
            if keep:
                self.packets.append(packet)

    @property
    def count(self) -> int:
        """How many frames are shown."""
        return len(self.times) - len(self.hidden)

    @cached_property
    def shown(self) -> list[int]:
        """The packets of the frames that are shown, in their order; empty where the file does not say when."""
        if not self._timed or None in self.times or len(set(self.times)) < len(self.times):
            return []
        if self._reorders and self.times == sorted(self.times):
            return []  # these are not the times of frames that are decoded out of order
        return sorted(set(range(len(self.times))) - self.hidden, key=self.times.__getitem__)

    def runs(self, frames: Iterable[int]) -> list[_Run]:
        """Return what to decode for some frames, whose numbers are in order."""
        runs: list[_Run] = []
        for frame in frames:
            packet = self.shown[frame]
            place = bisect_right(self.starts, packet) - 1
            while self.times[self.starts[place]] > self.times[packet] and place > 0:
                place -= 1  # shown before the key frame in front of it: needs the one before that
            first = self.starts[place]
            if runs and first <= runs[-1].last + 1:
                runs[-1] = _Run(runs[-1].first, max(runs[-1].last, packet), runs[-1].wanted | {packet})
            else:
                runs.append(_Run(first, packet, frozenset({packet})))
        return runs


class ClipFile:
    """An open clip; see `open_clip`.

    Args:
        path: the clip, as the user knows it.
        container: PyAV's.
        stream: its video stream.
    """

    def __init__(self, path: str | Path, container: "av.container.InputContainer", stream: "av.VideoStream") -> None:
        self.path = path
        self._container = container
        self._stream = stream
        self._size = os.stat(path).st_size  # noqa: PTH116

    @cached_property
    def info(self) -> VideoInfo:
        """What the file says about its video.

        Raises:
            ClipError: it has no frames, or not all of those that its index lists.
        """
        listed = self._listed()
        frames = self._table.count if listed is None else listed
        rate = self._header_rate() if listed is not None else self._rate_of_times() or self._header_rate()
        if frames == 0 or not rate:
            raise ClipError(self.path, "has no video frames")
        context = self._stream.codec_context
        return VideoInfo(frames, float(rate), context.width, context.height)

    @property
    def times(self) -> list[float]:
        """Seconds from the first frame to each one."""
        if not self._numbers:
            return [number / self.info.fps for number in range(self.info.frames)]
        first, unit = next(iter(self._numbers)), float(self._stream.time_base)
        return [(time - first) * unit for time in self._numbers]

    @property
    def codec(self) -> str:
        """Name of the codec and its profile, e.g. `h264` and `High`."""
        return self._stream.codec_context.name

    @property
    def is_plain(self) -> bool:
        """Whether every library decodes it from the first frame on, and converts it to the same RGB.

        Pictures are of 8 bits and not interlaced.
        """
        context = self._stream.codec_context
        deep = DEEP_PROFILES.search(str(context.profile))
        return context.name in EIGHT_BITS and not deep and context.field_order in NOT_INTERLACED and self._table.begins

    @property
    def starts(self) -> int:
        """How many frames decoding may begin with; 0 if seeking to a key frame is not exact, or no times tell where."""
        return len(self._table.starts) if self._table.seekable and self._numbers else 0

    @cached_property
    def _numbers(self) -> dict[int, int]:
        """Numbers of the frames by their times; none where the file does not say when frames are shown."""
        shown = self._table.shown
        if len(shown) != self.info.frames:
            return {}
        return {self._table.times[packet]: number for number, packet in enumerate(shown)}

    def cheapest(self, numbers: Iterable[int], reach: int) -> list[int]:
        """Return frames near the given ones that others refer to, which are decoded in any case; in order, each once.

        Args:
            numbers: of frames.
            reach: how many frames away another may be; where there is none, the frame itself is taken.
        """
        table = self._table
        if self.codec != "h264" or not table.packets or not self._numbers:
            return sorted(set(numbers))
        length = _length_bytes(self._stream)
        chosen = set()
        for number in numbers:
            near = sorted(range(max(number - reach, 0), min(number + reach + 1, self.info.frames)))
            near.sort(key=lambda other, number=number: abs(other - number))
            packets = ((other, table.packets[table.shown[other]]) for other in near)
            referenced = (other for other, packet in packets if _first_slice(packet, length) & NAL_REFERENCE)
            chosen.add(next(referenced, number))
        return sorted(chosen)

    def _listed(self) -> int | None:
        """Return how many frames the file's index shows; None if it has none."""
        entries = list(self._stream.index_entries) if self._stream.frames else []
        if len(entries) != self._stream.frames or not entries:
            return None
        whole = sum(entry.pos + entry.size <= self._size for entry in entries)
        if whole < len(entries):
            raise ClipError(self.path, f"is cut short: only {whole} of its {len(entries)} frames are in the file")
        return sum(not entry.flags & HIDDEN for entry in entries)

    def _header_rate(self) -> float:
        return float(self._stream.average_rate or self._stream.guessed_rate or 0)

    def _rate_of_times(self) -> float | None:
        """Return the frames a second of a file without an index, where its times say something else than its header.

        For WebM libavformat guesses the rate from the first frames; a camera's changes with the light.
        """
        shown = self._table.shown
        if len(shown) < 2:
            return None
        first, last = self._table.times[shown[0]], self._table.times[shown[-1]]
        rate = (len(shown) - 1) / float((last - first) * self._stream.time_base)
        return None if abs(rate - self._header_rate()) < SAME_RATE * rate else rate

    @cached_property
    def _table(self) -> _Table:
        return _Table(self._container, self._stream, self._size <= KEPT_BYTES)

    def frames(self, wanted: Sequence[int], seconds: float) -> Iterator[tuple[int, "av.VideoFrame"]]:
        """Yield frames with their numbers, in order, as they are decoded.

        Args:
            wanted: their numbers, in order, each once.
            seconds: how long decoding may take.

        Raises:
            ClipError: a frame cannot be decoded, or it takes too long.
        """
        deadline = _Deadline(self.path, seconds)
        left, missing = deque(wanted), set(wanted)
        early: dict[int, av.VideoFrame] = {}
        for decoded in (self._needed(wanted, deadline), self._all(deadline)):  # all, where times are missing or wrong
            for number, frame in decoded:
                if number in missing:
                    missing.remove(number)
                    early[number] = frame
                while left and left[0] in early:
                    yield left[0], early.pop(left.popleft())
                if not left:
                    return
        raise ClipError(self.path, f"is damaged: frame {left[0]} of {self.info.frames} cannot be decoded")

    def _needed(self, wanted: Sequence[int], deadline: "_Deadline") -> Iterator[tuple[int | None, "av.VideoFrame"]]:
        """Yield what comes out when only packets that wanted frames need are decoded, up to the first damage.

        Nothing does if the file does not say when frames are shown.
        """
        import av

        runs = self._table.runs(wanted) if self._numbers else []

        with self._decodable() as (packets, context):
            context.thread_type = "NONE"  # several clips are decoded at a time instead
            skips = context.name in SKIPPING
            numbered = enumerate(packets)
            try:
                for run in runs:
                    for number, packet in numbered:
                        if number >= run.first:
                            deadline.check()
                            if skips:
                                context.skip_frame = "DEFAULT" if number in run.wanted else "NONREF"
                            yield from self._numbered(context.decode(packet))
                        if number == run.last:
                            break
                    yield from self._numbered(context.decode(None))
                    context.flush_buffers()
            except av.FFmpegError:
                return

    def _numbered(self, frames: Iterable["av.VideoFrame"]) -> Iterator[tuple[int | None, "av.VideoFrame"]]:
        return ((self._numbers.get(frame.pts), frame) for frame in frames)

    @contextmanager
    def _decodable(self) -> Iterator[tuple[Iterable["av.Packet"], Any]]:
        """Yield all packets in order and what decodes them."""
        if self._table.packets:
            yield self._table.packets, self._stream.codec_context
            return
        with open_clip(self.path) as again:
            packets = (packet for packet in again._container.demux(again._stream) if packet.size)
            yield packets, again._stream.codec_context

    def _all(self, deadline: "_Deadline") -> Iterator[tuple[int | None, "av.VideoFrame"]]:
        """Yield all frames up to the first damage; where times do not number them, the order of decoding does."""
        import av

        with open_clip(self.path, decode=True) as again:
            again._stream.thread_type = "NONE"
            try:
                for place, frame in enumerate(again._container.decode(again._stream)):
                    deadline.check()
                    yield self._numbers.get(frame.pts) if self._numbers else place, frame
            except av.FFmpegError:
                return


@dataclass(frozen=True)
class _Deadline:
    """Ends what takes too long: some damaged clips keep a decoder busy for ever."""

    path: str | Path
    seconds: float
    end: float = 0.0

    def __post_init__(self) -> None:
        object.__setattr__(self, "end", time.monotonic() + self.seconds)

    def check(self) -> None:
        """Raise a `ClipError` if it is too late."""
        if time.monotonic() > self.end:
            raise ClipError(self.path, f"did not decode within {self.seconds:g} s")


@contextmanager
def open_clip(path: str | Path, decode: bool = False) -> Iterator[ClipFile]:
    """Open a clip.

    Args:
        path: the file.
        decode: let libavformat decode a frame to learn more about the streams; takes four times as long.

    Raises:
        ClipError: missing, empty, not readable or not a video.
    """
    import av

    file = Path(os.path.abspath(path))  # noqa: PTH100 - else `take:2.mp4` would be a file of the protocol `take`
    try:
        status = file.stat()
    except FileNotFoundError:
        raise ClipError(path, "no such file") from None
    except OSError as error:  # a folder that may not be entered, a loop of links, a name that is too long
        raise ClipError(path, f"may not be read ({error.strerror.lower()})") from None
    if not stat.S_ISREG(status.st_mode):
        raise ClipError(path, "is not a file")
    if status.st_size == 0:
        raise ClipError(path, "is empty (0 bytes)")
    try:
        container = av.open(str(file), options=LOCAL) if decode else _open_without_decoding(str(file))
    except PermissionError:
        raise ClipError(path, "may not be read (permission denied)") from None
    except (av.FFmpegError, OSError) as error:
        raise ClipError(path, _why_not(file, error)) from error
    with container:
        streams = [stream for stream in container.streams.video if not _is_cover(stream)]
        if not streams:
            raise ClipError(path, "has no video stream")
        if container.format.name.endswith("_pipe") or container.format.name == "image2":
            raise ClipError(path, "is a picture, not a video")
        if PLAYLISTS & set(container.format.name.split(",")):
            raise ClipError(path, "is a list of other files, not a video")
        yield ClipFile(path, container, streams[0])


def _why_not(file: Path, error: OSError) -> str:
    with file.open("rb") as opened:
        head = opened.read(8)
    if head[4:] == b"ftyp":  # ISO 14496-12: an MP4 file begins like this
        return f"is damaged: its index is missing or broken, as when it is cut short; 0 frames read ({error.strerror})"
    return f"is not a video or is damaged ({error.strerror})"


def _open_without_decoding(file: str) -> Any:
    """Open a file, four times as fast: libavformat decodes a frame while it looks at the streams if it may."""
    import av

    try:
        return av.open(file, options=LOCAL, stream_options=[{"skip_frame": "all"}])
    except ValueError:  # a format that names its streams only on the way (flv, mpg) takes no options for them
        return av.open(file, options=LOCAL)


def _is_cover(stream: Any) -> bool:
    from av.stream import Disposition

    return bool(stream.disposition & Disposition.attached_pic)


def _start_test(stream: "av.VideoStream") -> Any:
    """Return what tells of a key packet whether decoding may begin there.

    H.264 also marks recovery points as key frames, from which the picture becomes whole only bit by bit.
    """
    if stream.codec_context.name != "h264":
        return lambda packet: True
    length = _length_bytes(stream)
    return lambda packet: _first_slice(packet, length) & NAL_TYPE == H264_IDR


def _length_bytes(stream: "av.VideoStream") -> int:
    """Return how many bytes in front of each NAL unit say how long it is; 0 if start codes part them."""
    configuration = stream.codec_context.extradata or b""
    # ISO 14496-15: a configuration record begins with 1, and says how long the lengths are.
    return (configuration[4] & 3) + 1 if configuration[:1] == b"\1" and len(configuration) > 4 else 0


def _first_slice(av_packet: "av.Packet", length: int) -> int:
    """Return the header of a packet's first slice (its NAL unit), 0 if it has none; `length` is 0 for start codes."""
    packet = bytes(av_packet)
    place = 0
    while place < len(packet):
        if length:
            begin = place + length
            place = begin + int.from_bytes(packet[place:begin], "big")
        else:
            begin = packet.find(b"\0\0\1", place) + 3
            if begin < 3:
                return 0
            place = begin
        header = packet[begin] if begin < len(packet) else 0
        if header & NAL_TYPE in (H264_SLICE, H264_IDR):
            return header
    return 0

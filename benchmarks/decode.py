"""Time the readers of frames at QEVD's size: 8 of 145 frames, one thread each, with and without B-frames, and probing.

The clip is generated: somebody textured moves in a textured room, with sensor noise, 640x480, encoded by x264's default
preset with one key frame. Raw libraries are used as their manuals show it; `read_clip` is this project's. The baseline
is raw decord. All return equal frames, or the command says so. Each time is the best of some runs, in turn.
"""

import os
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from filmed import FRAMES, HEIGHT, WIDTH, write_clip
from machine import describe_machine

from formcoach.command import command_parser, positive, run
from formcoach.errors import UserError

if TYPE_CHECKING:
    import numpy as np

BASELINE = "decord"
ENCODINGS = {"x264's default B-frames": {}, "no B-frames": {"bf": "0"}, "a key frame a second": {"g": "30"}}


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command."""
    parser = command_parser(__doc__, "python benchmarks/decode.py --repeat 15")
    parser.add_argument("--repeat", type=positive, default=15, metavar="N", help="runs of each (default: %(default)s)")
    parser.add_argument("--frames", type=positive, default=8, metavar="N", help="to read (default: %(default)s)")
    parser.add_argument("--clips", type=positive, default=1000, metavar="N", help="to probe (default: %(default)s)")
    args = parser.parse_args(argv)
    if args.frames > FRAMES:
        raise UserError(f"--frames {args.frames}: the clip has {FRAMES}")

    print(f"machine: {describe_machine('cpu')}")
    print(f"settings: {args.frames} of {FRAMES} frames of {WIDTH}x{HEIGHT}; best of {args.repeat} runs each, in turn")
    with tempfile.TemporaryDirectory() as folder:
        for name, options in ENCODINGS.items():
            path = write_clip(Path(folder) / "clip.mp4", seed=7, options=options)
            print(f"\n{name}, {path.stat().st_size / 1e3:.0f} kB\n{'reader':<22}{'ms':>8}{'speed':>9}")
            print_readers(path, args.frames, args.repeat)
        print_probing(path, Path(folder), args.clips)
    return 0


def print_readers(path: Path, count: int, repeat: int) -> None:
    """Print a line for each reader."""
    import numpy as np

    from formcoach.data.sampling import frame_indices

    wanted = frame_indices(FRAMES, count)
    readers = all_readers(path, wanted)
    expected = readers[BASELINE]()
    unequal = [name for name, read in readers.items() if not np.array_equal(read(), expected)]
    best = {name: min(seconds) for name, seconds in times(readers, repeat).items()}
    for name, seconds in best.items():
        note = "   other frames!" if name in unequal else ""
        print(f"{name:<22}{1000 * seconds:>8.1f}{best[BASELINE] / seconds:>8.2f}x{note}")


def all_readers(path: Path, wanted: list[int]) -> "dict[str, Callable[[], np.ndarray]]":
    """Return by name the functions that read frames, (T, H, W, 3)."""
    import av
    import cv2
    import decord
    import numpy as np

    from formcoach.data.video import READERS, read_clip

    def raw_decord() -> np.ndarray:
        return decord.VideoReader(str(path), num_threads=1).get_batch(wanted).asnumpy()

    def raw_pyav() -> np.ndarray:
        with av.open(str(path)) as container:
            stream = container.streams.video[0]
            stream.thread_type = "NONE"
            chosen = (frame for index, frame in enumerate(container.decode(stream)) if index in wanted)
            return np.stack([frame.to_ndarray(format="rgb24") for frame in chosen])

    def raw_opencv() -> np.ndarray:
        video = cv2.VideoCapture(str(path), cv2.CAP_FFMPEG, [cv2.CAP_PROP_N_THREADS, 1])
        frames = [video.read()[1] for _ in range(wanted[-1] + 1)]
        return np.stack([cv2.cvtColor(frames[index], cv2.COLOR_BGR2RGB) for index in wanted])

    def ours(reader: str) -> Callable[[], np.ndarray]:
        return lambda: read_clip(path, lambda total, fps: wanted, reader).frames

    decord.logging.set_level(decord.logging.QUIET)
    raw = {BASELINE: raw_decord, "PyAV": raw_pyav, "OpenCV": raw_opencv}
    return raw | {f"read_clip, {reader}": ours(reader) for reader in READERS}


def times(functions: "dict[str, Callable[[], np.ndarray]]", repeat: int) -> dict[str, list[float]]:
    """Return the seconds of `repeat` runs of each function, in turn."""
    seconds: dict[str, list[float]] = {name: [] for name in functions}
    for _ in range(repeat):
        for name, function in functions.items():
            begin = time.perf_counter()
            function()
            seconds[name].append(time.perf_counter() - begin)
    return seconds


def print_probing(path: Path, folder: Path, clips: int) -> None:
    """Print how many clips a second are probed."""
    from formcoach.data.video import probe_all

    links = [folder / f"{number}.mp4" for number in range(clips)]
    for link in links:
        os.link(path, link)
    wall, cpu = time.perf_counter(), time.process_time()
    opened = sum(1 for _ in probe_all(links))
    wall, cpu = time.perf_counter() - wall, time.process_time() - cpu
    print(f"\nprobing: {opened / wall:.0f} clips/s in all, {opened / cpu:.0f} a second of a core's time")


if __name__ == "__main__":
    run(main)

"""Time cleaning at the size of QEVD's clips: clips a second of the whole command, and where the time of a clip goes.

The clips are generated: somebody textured moves in a textured room, with sensor noise, encoded by x264's default preset
(medium, crf 23, B-frames): 640x480, 30 frames a second, 145 frames. Every eighth is a copy encoded again, so that there
are rejects to report. The baseline decodes every frame and measures nothing.
"""

import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path

from filmed import FRAMES, HEIGHT, WIDTH, write_clip
from machine import describe_machine

from formcoach.command import command_parser, positive, run

COPIED = 8  # one in so many clips is a copy


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command."""
    parser = command_parser(__doc__, "python benchmarks/cleaning.py --clips 48 --workers 2")
    parser.add_argument("--clips", type=positive, default=48, metavar="N", help="default: %(default)s")
    parser.add_argument("--workers", type=positive, default=2, metavar="N", help="processes (default: %(default)s)")
    parser.add_argument("--repeat", type=positive, default=3, metavar="N", help="best of N runs (default: %(default)s)")
    parser.add_argument("--noise", type=float, default=2.0, help="of the sensor, in grey levels (default: %(default)s)")
    args = parser.parse_args(argv)

    print(f"machine: {describe_machine('cpu')}")
    with tempfile.TemporaryDirectory() as folder:
        dataset = Path(folder) / "dataset"
        write_clips(dataset / "squats", args.clips, args.noise)
        clips = sorted(dataset.rglob("*.mp4"))
        kilobytes = sum(clip.stat().st_size for clip in clips) / len(clips) / 1e3
        print(
            f"settings: {args.clips} clips of {WIDTH}x{HEIGHT}, {FRAMES} frames, {kilobytes:.0f} kB on average, "
            f"noise {args.noise:g}; best of {args.repeat} runs"
        )
        print_parts(clips[: min(8, len(clips))], args.repeat)
        print_command(dataset, args.clips, args.workers, args.repeat)
    return 0


def write_clips(folder: Path, count: int, noise: float) -> None:
    """Write the clips, in as many different rooms."""
    folder.mkdir(parents=True)
    for number in range(count):
        copy = number % COPIED == COPIED - 1
        write_clip(folder / f"{number:05}.mp4", number - copy, noise, {"crf": "30" if copy else "23"})


def print_parts(clips: Sequence[Path], repeat: int) -> None:
    """Print the milliseconds that the parts of one clip take in one thread, and how they compare to the baseline."""
    import cv2

    from formcoach.data.clip_file import open_clip
    from formcoach.data.quality import CLIP_SECONDS, measure, sample_numbers

    def decode_what_is_needed(path: Path) -> None:
        with open_clip(path) as file:
            for _ in file.frames(sample_numbers(file.info), CLIP_SECONDS):
                pass

    cv2.setNumThreads(1)
    every = best(repeat, lambda: [_decode_everything(clip) for clip in clips]) / len(clips)
    needed = best(repeat, lambda: [decode_what_is_needed(clip) for clip in clips]) / len(clips)
    whole = best(repeat, lambda: [measure(clip) for clip in clips]) / len(clips)
    for what, seconds in (
        ("decode every frame (baseline)", every),
        ("decode what is needed", needed),
        ("measures", whole - needed),
        ("together", whole),
    ):
        print(f"{what:<32}{1000 * seconds:7.1f} ms a clip  {every / seconds:6.2f}x")


def _decode_everything(path: Path) -> None:
    import av

    with av.open(str(path)) as container:
        container.streams.video[0].thread_type = "NONE"
        for _ in container.decode(video=0):
            pass


def print_command(dataset: Path, clips: int, workers: int, repeat: int) -> None:
    """Print the clips a second of the whole command, and of a second run that finds all measures in the cache."""
    import shutil

    from formcoach.data.clean_folder import clean_folder
    from formcoach.data.file_cache import FOLDER
    from formcoach.data.thresholds import Thresholds

    def clean() -> None:
        clean_folder(dataset, dataset.parent / "out", None, Thresholds(), None, True, workers)

    def clean_anew() -> None:
        shutil.rmtree(dataset / FOLDER, ignore_errors=True)
        clean()

    first, again = best(repeat, clean_anew), best(repeat, clean)
    print(f"{f'whole command, {workers} processes':<32}{clips / first:7.1f} clips/s, {first:.1f} s")
    print(f"{'of it judging and reports':<32}{again:7.2f} s, as in a second run")


def best(repeat: int, work: Callable[[], object]) -> float:
    """Return the seconds of the fastest of several runs."""
    times = []
    for _ in range(repeat):
        start = time.perf_counter()
        work()
        times.append(time.perf_counter() - start)
    return min(times)


if __name__ == "__main__":
    run(main)

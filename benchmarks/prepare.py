"""The way from label files and clips to splits, at the size of QEVD-FIT-300k: seconds, clips a second, peak memory.

The clips are hard links to a dozen originals of QEVD's size; annotations have the form of the release. Named baseline:
the same command on the same folder with nothing cached, which opens every clip.
"""

import json
import os
import random
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import av
import numpy as np
from machine import describe_machine

from formcoach.command import command_parser, run

ORIGINALS = 12
FRAMES, FPS, WIDTH, HEIGHT = 145, 30, 640, 480
EXERCISES, PEOPLE = 150, 1900
SEEN = ("good form", "not low enough", "too fast", "back not straight", "User is holding the stretch", "not visible")
PROJECT = Path(__file__).resolve().parent.parent


def main() -> int:
    """Make the folder, run the command without and with its cache, print a table."""
    parser = command_parser(__doc__, "python benchmarks/prepare.py --clips 300000")
    parser.add_argument("--clips", type=int, default=300_000, help="in the folder (%(default)s)")
    parser.add_argument("--folder", type=Path, help="where to make it, and to keep it (a temporary one)")
    args = parser.parse_args()
    print(describe_machine("cpu"))
    print(f"{args.clips} clips of {FRAMES} frames, {WIDTH} x {HEIGHT}, hard links to {ORIGINALS}; {PEOPLE} people\n")
    with tempfile.TemporaryDirectory() as scratch:
        folder = args.folder or Path(scratch)
        dataset = folder / "dataset"
        if not dataset.exists():
            make_release(dataset, args.clips)
        print(f"{'run':<24}{'seconds':>9}{'clips/s':>10}{'peak GB':>9}")
        cold = report("nothing cached", dataset, folder, args.clips)
        warm = report("durations cached", dataset, folder, args.clips)
    print(f"\nwith the cache {cold / warm:.1f} times as fast")
    return 0


def make_release(dataset: Path, clips: int) -> None:
    """Write the clips and `fine_grained_labels_with_worker_ids.json`."""
    rng = random.Random(0)
    folder = dataset / "short_clips"
    folder.mkdir(parents=True)
    originals = [write_original(dataset / ".originals" / f"{number}.mp4", number) for number in range(ORIGINALS)]
    records = []
    for number in range(clips):
        name = f"{number:08d}.mp4"
        os.link(originals[number % ORIGINALS], folder / name)
        person, exercise = int(rng.triangular(0, PEOPLE, 0)), f"exercise {int(rng.triangular(0, EXERCISES, 0))}"
        labels = [f"{exercise} - {seen}" for seen in rng.sample(SEEN, rng.randint(1, 3))]
        records.append(
            {
                "video_path": f"./{name}",
                "labels": labels,
                "labels_descriptive": [f"{label}, keep going and mind your back" for label in labels],
                "split": "test" if person % 5 == 0 else "train",
                "worker_id": f"worker_{person}",
            }
        )
    (dataset / "fine_grained_labels_with_worker_ids.json").write_text(json.dumps(records))


def write_original(path: Path, seed: int) -> Path:
    """Write a clip of noise that drifts: H.264 with x264's default B-frames and one key frame."""
    path.parent.mkdir(exist_ok=True)
    rng = np.random.default_rng(seed)
    scene = rng.integers(60, 200, (HEIGHT // 8, WIDTH // 8 + FRAMES, 3)).astype(np.uint8).repeat(8, 0).repeat(8, 1)
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=FPS, options={"g": "250"})
        stream.width, stream.height, stream.pix_fmt = WIDTH, HEIGHT, "yuv420p"
        for number in range(FRAMES):
            picture = np.ascontiguousarray(scene[:, number : number + WIDTH])
            container.mux(stream.encode(av.VideoFrame.from_ndarray(picture, format="rgb24")))
        container.mux(stream.encode(None))
    return path


def report(name: str, dataset: Path, folder: Path, clips: int) -> float:
    """Run the command, print its line and return its seconds."""
    command = [sys.executable, PROJECT / "utils/qved_from_fine_labels.py", "--duplicates", "off"]
    started = time.perf_counter()
    with subprocess.Popen(
        [*command, "--dataset-dir", dataset, "--output-dir", folder / "data/annotaions"], stdout=subprocess.DEVNULL
    ) as process:
        _, status, usage = os.wait4(process.pid, 0)
        process.returncode = os.waitstatus_to_exitcode(status)
    seconds = time.perf_counter() - started
    if process.returncode:
        raise SystemExit(process.returncode)
    unit = 1 if sys.platform == "darwin" else 1024  # of ru_maxrss, in bytes
    print(f"{name:<24}{seconds:>9.1f}{clips / seconds:>10.0f}{usage.ru_maxrss * unit / 1e9:>9.2f}")
    return seconds


if __name__ == "__main__":
    run(main)

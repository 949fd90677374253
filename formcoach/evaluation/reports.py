"""The reports of a test set: a page to look at, and a spreadsheet to compute with."""

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from urllib.parse import quote

from formcoach.command import progress
from formcoach.evaluation.evaluation_page import page, read_strips
from formcoach.evaluation.scores import Evaluation
from formcoach.evaluation.workbook import write_workbook
from formcoach.files import write_text
from formcoach.inference.predictions import Prediction

NAME = "test_evaluation_report"


def write_reports(
    folder: Path,
    answers: Mapping[str, Sequence[Prediction]],
    evaluation: Evaluation,
    root: Path,
    sources: Sequence[str],
    variant: str = "",
) -> list[Path]:
    """Write both reports, each atomically, and return where they are.

    Args:
        folder: of the reports.
        answers: of one model or two, the same clips in the same order.
        evaluation: their scores.
        root: the folder of the clips. Without it the page shows no frames.
        sources: lines that tell where the answers come from.
        variant: what the files' names end in.
    """
    videos = list(dict.fromkeys(prediction.video for prediction in next(iter(answers.values()))))
    strips = {}
    if root.is_dir():
        read = progress(read_strips(root, videos), len(videos), "clips looked at")
        strips = {video: strip for video, strip in zip(videos, read, strict=True) if strip is not None}
    clips = quote(Path(os.path.relpath(root.resolve(), folder.resolve())).as_posix()) if strips else None
    paths = [folder / f"{NAME}{variant}.{kind}" for kind in ("html", "xlsx")]
    write_text(paths[0], page(answers, evaluation, strips, clips, sources))
    write_workbook(paths[1], answers, evaluation)
    return paths

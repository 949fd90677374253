"""The whole way from a dataset's splits to its page and its picture."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from formcoach.command import progress
from formcoach.data.overview import Overview, read_overview
from formcoach.data.overview_concerns import Concern, find_concerns
from formcoach.data.overview_page import page
from formcoach.data.overview_picture import write_picture
from formcoach.data.overview_strips import choose, read_strips
from formcoach.files import write_text

PAGE, PICTURE = "dataset_report.html", "dataset_overview.png"
SAMPLES = 60


@dataclass(frozen=True)
class Report:
    """What was written.

    Args:
        overview: the numbers.
        concerns: what is worth knowing, the serious things first.
        page: the HTML file.
        picture: the PNG file.
    """

    overview: Overview
    concerns: Sequence[Concern]
    page: Path
    picture: Path


def write_report(
    dataset_dir: Path, output_dir: Path, report_dir: Path | None = None, samples: int = SAMPLES, seed: int = 0
) -> Report:
    """Count what the splits hold, draw samples, write page and picture.

    Args:
        dataset_dir: the clips' folder.
        output_dir: the splits' folder.
        report_dir: gets page and picture; None: `output_dir`.
        samples: clips that are shown at most.
        seed: draws them.

    Raises:
        UserError: the splits are missing, or one of the files is malformed.
    """
    overview, clips = read_overview(dataset_dir, output_dir, seed)
    concerns = find_concerns(overview, clips)
    chosen = choose(clips, samples, seed)
    strips = list(progress(read_strips(dataset_dir, chosen), len(chosen), "sample clips"))
    folder = output_dir if report_dir is None else report_dir
    write_text(folder / PAGE, page(overview, concerns, strips, seed))
    write_picture(folder / PICTURE, overview, strips)
    return Report(overview, concerns, folder / PAGE, folder / PICTURE)

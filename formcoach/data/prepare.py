"""From a folder of clips and labels to splits that share nobody: the whole way, written at the end or not at all."""

from collections.abc import Iterable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from pathlib import Path

import msgspec

from formcoach.data.annotations import LabelledClip
from formcoach.data.assignments import Assignments, read_assignments
from formcoach.data.clip_facts import ClipFacts, read_facts, same_files
from formcoach.data.clip_index import ClipIndex
from formcoach.data.convert import DATA_SET, annotation_files, source_lists
from formcoach.data.kept import Cleaned, read_cleaned
from formcoach.data.qevd import LABELS_ONLY, BadClip, LabelledFolder, check_folder, read_folder
from formcoach.data.split_summary import SplitSummary, summarise
from formcoach.data.splits import Settings, split_clips
from formcoach.data.together import Ties, find_leaks, tie
from formcoach.errors import UserError
from formcoach.files import only_one, remove_stale, replacing

SHOWN_BAD_CLIPS = 3


@dataclass(frozen=True)
class Choices:
    """What a user may decide about the splits; None: as the last time, else the default.

    Args:
        answers: what becomes the answer, see `formcoach.data.qevd.ANSWERS`.
        ratios: of train, val and test.
        seed: of the split.
        resplit: ignore official splits.
        drop_leaks: leave out training clips that share somebody with the official test split.
        duplicates: keep byte-equal clips together, and look-alikes that cleaning has found.
        skip_bad_clips: leave out clips that are missing, damaged or unlabelled, instead of refusing.
    """

    answers: str = LABELS_ONLY
    ratios: tuple[float, ...] | None = None
    seed: int | None = None
    resplit: bool | None = None
    drop_leaks: bool = False
    duplicates: bool = True
    skip_bad_clips: bool = False


DEFAULT = Choices()


@dataclass(frozen=True)
class _Usable:
    """The clips to split, and the others.

    Args:
        clips: labelled, readable and not rejected.
        facts: of their files.
        left_out: the others, by path, with the reason.
    """

    clips: list[LabelledClip]
    facts: dict[str, ClipFacts]
    left_out: dict[str, str]


def write_splits(
    dataset_dir: Path, output_dir: Path, *, labels: Path | None = None, choices: Choices = DEFAULT
) -> SplitSummary:
    """Split a dataset folder and write the training files; all of them at the end, or none.

    `output_dir` gets `qevd_fit_300k_{train,val,test}.jsonl`, the summary, the list of clips that were left out and the
    assignments that the next call keeps; its parent the two lists of data sets that the trainer reads
    (`diy_ft_data.json`, `diy_ft_data_val.json`; what others are in there stays), and `dataset_dir` the Mobile-VideoGPT
    form, `qved_{train,val,test}.json`.

    Args:
        dataset_dir: the clips and their label files.
        output_dir: for the conversations.
        labels: another label file.
        choices: how to split, and what to do about bad clips.

    Raises:
        UserError: the labels are malformed, clips are bad and are not to be skipped, there are too few, or two splits
            would share something.
    """
    check_folder(dataset_dir)
    with only_one(dataset_dir, f"changing {dataset_dir}", wait=True):
        return _write_splits(dataset_dir, output_dir, labels, choices)


def _write_splits(dataset_dir: Path, output_dir: Path, labels: Path | None, choices: Choices) -> SplitSummary:
    lists = source_lists(dataset_dir, output_dir)
    memory = output_dir / f"{DATA_SET}_assignments.json"
    settings, before, notices = _settings(memory, choices)
    folder = read_folder(dataset_dir, labels, choices.answers)
    cleaned = read_cleaned(output_dir)
    usable, bad = _usable(dataset_dir, folder, cleaned)
    if bad and not choices.skip_bad_clips:
        raise UserError(_refusal(dataset_dir, folder, bad))
    same = same_files(dataset_dir, usable.facts) if choices.duplicates else []
    ties = tie(usable.clips, same, cleaned.duplicates if cleaned and choices.duplicates else [])
    contents = {path: fact.content for path, fact in usable.facts.items()} if choices.duplicates else {}
    splitting = split_clips(usable.clips, settings, ties, before, contents)
    _check(splitting.splits, ties)
    left_out = usable.left_out | splitting.left_out | {clip.path: clip.reason for clip in bad}
    summary = summarise(folder, splitting, usable.facts, settings, ties, left_out)
    kept = before or Assignments(list(settings.ratios), settings.seed, settings.resplit)
    skipped = output_dir / f"{DATA_SET}_skipped.jsonl"
    files = {
        **annotation_files(dataset_dir, output_dir, splitting.splits, usable.facts, choices.answers),
        **{path: [content] for path, content in lists.items()},
        output_dir / f"{DATA_SET}_summary.json": [summary.to_json()],
        memory: [msgspec.json.encode(kept.with_splits(splitting.splits, contents))],
    }
    if left_out:
        files[skipped] = (
            msgspec.json.encode({"video": path, "reason": left_out[path]}) + b"\n" for path in sorted(left_out)
        )
    _write_all(files)
    if not left_out:
        skipped.unlink(missing_ok=True)
    notices += [*folder.notices, *_notices(usable, same, cleaned, splitting.moved)]
    return replace(summary, notices=notices, written=list(files), bad=len(bad), skipped=skipped)


def _settings(memory: Path, choices: Choices) -> tuple[Settings, Assignments | None, list[str]]:
    """Return how to split, and the assignments to keep: none if somebody asks for other settings."""
    before = read_assignments(memory)
    default = Settings() if before is None else Settings(tuple(before.ratios), before.seed, before.resplit)
    asked = {name: getattr(choices, name) for name in ("ratios", "seed", "resplit")}
    if choices.ratios is not None:
        asked["ratios"] = tuple(round(ratio / sum(choices.ratios), 9) for ratio in choices.ratios)
    settings = replace(default, **{name: value for name, value in asked.items() if value is not None})
    if before is None or settings == default:
        return replace(settings, drop_leaks=choices.drop_leaks), before, []
    changed = [f"--{name}" for name in asked if getattr(settings, name) != getattr(default, name)]
    notice = f"{' and '.join(changed)} {'is' if len(changed) == 1 else 'are'} not as before: all clips are split anew"
    return replace(settings, drop_leaks=choices.drop_leaks), None, [notice]


def _usable(dataset_dir: Path, folder: LabelledFolder, cleaned: Cleaned | None) -> tuple[_Usable, list[BadClip]]:
    """Return the clips that can be used, those left out by choice, and those that are bad."""
    left_out = dict.fromkeys(folder.unlisted, "no record names it")
    left_out |= {clip.path: clip.reason for clip in folder.unanswered}
    rejected = dict(cleaned.rejected) if cleaned else {}
    index = ClipIndex(dataset_dir, list(rejected))
    bad = []
    for clip in folder.bad:
        moved = index.find(clip.path) if rejected else None  # by clean_dataset --apply
        if moved is None:
            bad.append(clip)
        else:
            left_out[moved] = _cleaning(rejected[moved])
    wanted = []
    for clip in folder.clips:
        if clip.path in rejected:
            left_out[clip.path] = _cleaning(rejected[clip.path])
        else:
            wanted.append(clip)
    facts, damaged = read_facts(dataset_dir, [clip.path for clip in wanted])
    bad += [BadClip(path, reason) for path, reason in damaged.items()]
    clips = [clip for clip in wanted if clip.path in facts]
    return _Usable(clips, facts, left_out), sorted(bad, key=lambda clip: clip.path)


def _cleaning(reasons: Iterable[str]) -> str:
    return "rejected by cleaning: " + "; ".join(reasons)


def _refusal(dataset_dir: Path, folder: LabelledFolder, bad: Sequence[BadClip]) -> str:
    shown = "; ".join(f"{dataset_dir / clip.path}: {clip.reason}" for clip in bad[:SHOWN_BAD_CLIPS])
    more = f"; and {len(bad) - SHOWN_BAD_CLIPS} more" if len(bad) > SHOWN_BAD_CLIPS else ""
    clips = "clip that cannot be used" if len(bad) == 1 else "clips that cannot be used"
    return (
        f"{folder.label_file} names {len(bad)} {clips}: {shown}{more}. Put them right, remove their records, or pass "
        "--skip-bad-clips"
    )


def _check(splits: Mapping[str, Sequence[LabelledClip]], ties: Ties) -> None:
    """Look once more, by another way than the splits were made: nothing is shared.

    Raises:
        UserError: something is.
    """
    leaks = find_leaks(splits, ties)
    if leaks:
        more = f"; and {len(leaks) - 1} more" if len(leaks) > 1 else ""
        raise UserError(
            f"leak check: {leaks[0]}{more}; nothing was written. Pass --seed with another number, and report it"
        )


def _notices(
    usable: _Usable, same: Sequence[Sequence[str]], cleaned: Cleaned | None, moved: Sequence[str]
) -> list[str]:
    notices = []
    labels = {clip.path: clip.labels for clip in usable.clips}
    unlike = [group for group in same if len({labels[path] for path in group}) > 1]
    if unlike:
        notices.append(f"{len(unlike)} times equal files have different labels, first: {' and '.join(unlike[0][:2])}")
    if cleaned is not None:
        known = {*cleaned.kept, *cleaned.rejected}
        new = [clip.path for clip in usable.clips if clip.path not in known and clip.source is None]
        if new:
            notices.append(
                f"{_count(new)} came after cleaning, first: {new[0]}; run utils/clean_dataset.py to check them"
            )
    if moved:
        notices.append(
            f"{_count(moved)} moved to another split, first: {moved[0]}: they now belong together with others"
        )
    return notices


def _count(clips: Sequence[str]) -> str:
    return "1 clip" if len(clips) == 1 else f"{len(clips)} clips"


def _write_all(files: Mapping[Path, Iterable[bytes]]) -> None:
    """Write all files beside their places, then rename them all; what a killed process left there goes."""
    for path in files:
        remove_stale(path)
    try:
        with ExitStack() as stack:
            temporaries = [(stack.enter_context(replacing(path)), chunks) for path, chunks in files.items()]
            for temporary, chunks in temporaries:
                with temporary.open("wb") as file:
                    file.writelines(chunks)
    except PermissionError as error:
        raise UserError(f"{Path(error.filename).parent}: cannot write there ({error.strerror})") from error

"""From a labelled folder to the files that both models train on."""

import json
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from formcoach.command import progress
from formcoach.data.annotations import IMAGE, Conversation, LabelledClip, Turn, conversation_lines
from formcoach.data.qevd import BadClip, LabelledFolder, read_folder
from formcoach.data.splits import SPLITS, split_clips
from formcoach.data.video import VideoInfo, probe_all
from formcoach.errors import UserError
from formcoach.files import read_json, replacing

DATA_SET = "qevd_fit_300k"  # its name in diy_ft_data.json and in front of the splits' files
QUESTION = (
    "Please evaluate the exercise form shown. "
    "What mistakes, if any, are present, and what corrections would you recommend?"
)
MOBILE_QUESTION = "Analyze this {exercise} video and provide corrective feedback."
MOBILE_PREFIX = "dataset/"  # its paths start at the project's folder
SHOWN_BAD_CLIPS = 3


@dataclass(frozen=True)
class SplitCounts:
    """The size of a split.

    Args:
        clips: how many.
        people: known ones among them.
        exercises: different ones.
        seconds: of video.
    """

    clips: int
    people: int
    exercises: int
    seconds: float


@dataclass(frozen=True)
class SplitSummary:
    """What was written.

    Args:
        label_file: where the labels come from.
        splits: by name.
        nameless: clips of which nobody says who is in them.
        skipped: records that could not be used.
        unlisted: clips on disk that no record names.
        written: the files.
    """

    label_file: Path
    splits: dict[str, SplitCounts]
    nameless: int
    skipped: list[BadClip]
    unlisted: list[str]
    written: list[Path]


def write_splits(
    dataset_dir: Path,
    output_dir: Path,
    *,
    labels: Path | None = None,
    ratios: Sequence[float] = (0.6, 0.2, 0.2),
    seed: int = 42,
    skip_bad_clips: bool = False,
) -> SplitSummary:
    """Split a dataset folder and write the training files; all of them at the end, or none.

    `output_dir` gets `qevd_fit_300k_{train,val,test}.jsonl`, its parent the two lists of data sets that the trainer
    reads (`diy_ft_data.json`, `diy_ft_data_val.json`; what others are in there stays), and `dataset_dir` the
    Mobile-VideoGPT form, `qved_{train,val,test}.json`.

    Args:
        dataset_dir: the clips and their label file.
        output_dir: for the conversations.
        labels: another label file.
        ratios: of train, val and test.
        seed: of the split.
        skip_bad_clips: leave out clips that are missing, damaged or unlabelled, and list them beside the splits.

    Raises:
        UserError: the labels are malformed, clips are bad and are not to be skipped, or there are too few.
    """
    lists = _source_lists(dataset_dir, output_dir)
    folder = read_folder(dataset_dir, labels)
    infos, damaged = _probe(dataset_dir, folder.clips)
    bad = sorted([*folder.bad, *damaged], key=lambda clip: clip.path)
    if bad and not skip_bad_clips:
        raise UserError(_refusal(folder, bad))
    splits = split_clips([clip for clip in folder.clips if clip.path in infos], ratios, seed)
    files = _annotation_files(dataset_dir, output_dir, splits, infos) | lists
    skipped_file = output_dir / f"{DATA_SET}_skipped.jsonl"
    if bad:
        files[skipped_file] = "".join(
            json.dumps({"video": clip.path, "reason": clip.reason}, ensure_ascii=False) + "\n" for clip in bad
        )
    _write_all(files)
    if not bad:
        skipped_file.unlink(missing_ok=True)
    return SplitSummary(
        label_file=folder.label_file,
        splits={name: _counts(members, infos) for name, members in splits.items()},
        nameless=sum(clip.person is None for members in splits.values() for clip in members),
        skipped=bad,
        unlisted=folder.unlisted,
        written=list(files),
    )


def _probe(dataset_dir: Path, clips: Sequence[LabelledClip]) -> tuple[dict[str, VideoInfo], list[BadClip]]:
    """Return what each clip's file says, by path, and the clips that do not open."""
    infos, bad = {}, []
    results = progress(probe_all([dataset_dir / clip.path for clip in clips]), len(clips), "clips opened")
    for clip, result in zip(clips, results, strict=True):
        if isinstance(result, VideoInfo):
            infos[clip.path] = result
        else:
            bad.append(BadClip(result.path, result.reason))
    return infos, bad


def _refusal(folder: LabelledFolder, bad: Sequence[BadClip]) -> str:
    shown = "; ".join(str(clip) for clip in bad[:SHOWN_BAD_CLIPS])
    more = f"; and {len(bad) - SHOWN_BAD_CLIPS} more" if len(bad) > SHOWN_BAD_CLIPS else ""
    clips = "clip that cannot be used" if len(bad) == 1 else "clips that cannot be used"
    return (
        f"{folder.label_file} names {len(bad)} {clips}: {shown}{more}. Put them right, remove their records, or pass "
        "--skip-bad-clips"
    )


def _annotation_files(
    dataset_dir: Path, output_dir: Path, splits: dict[str, list[LabelledClip]], infos: dict[str, VideoInfo]
) -> dict[Path, str]:
    """Return path and text of the files of conversations, in both forms."""
    files = {}
    for split in SPLITS:
        conversations = [_conversation(clip, infos[clip.path]) for clip in splits[split]]
        mobile = [_mobile_conversation(clip, infos[clip.path], split) for clip in splits[split]]
        files[output_dir / f"{DATA_SET}_{split}.jsonl"] = conversation_lines(conversations)
        files[dataset_dir / f"qved_{split}.json"] = _json(mobile)
    return files


def _conversation(clip: LabelledClip, info: VideoInfo) -> Conversation:
    return Conversation(
        id=clip.path,
        video=clip.path,
        conversations=[Turn("human", IMAGE + QUESTION), Turn("gpt", clip.answer)],
        duration=round(info.duration, 3),
        labels=list(clip.labels),
        person=clip.person,
    )


def _mobile_conversation(clip: LabelledClip, info: VideoInfo, split: str) -> dict[str, Any]:
    return {
        "id": clip.path,
        "video": MOBILE_PREFIX + clip.path,
        "conversations": [
            {"from": "human", "value": MOBILE_QUESTION.format(exercise=clip.exercise)},
            {"from": "gpt", "value": clip.answer},
        ],
        "duration": round(info.duration, 3),
        "split": split,
    }


def _source_lists(dataset_dir: Path, output_dir: Path) -> dict[Path, str]:
    """Return path and text of the lists of data sets for training and validation."""
    folder = output_dir.absolute().parent
    files = {}
    for name, split in (("diy_ft_data.json", "train"), ("diy_ft_data_val.json", "val")):
        annotation = output_dir.absolute() / f"{DATA_SET}_{split}.jsonl"
        entry = {"root": _from(folder.parent, dataset_dir), "annotation": _from(folder.parent, annotation)}
        path = output_dir.parent / name
        files[path] = _json(_with_entry(path, entry))
    return files


def _from(project: Path, path: Path) -> str:
    """Return a path relative to the project where it lies in it, else whole."""
    path = path.absolute()
    return (path.relative_to(project) if path.is_relative_to(project) else path).as_posix()


def _with_entry(path: Path, entry: dict[str, str]) -> dict[str, Any]:
    """Return the list of data sets that is at `path` with our entry; other entries and the user's settings stay."""
    listed = read_json(path, "Correct it, or delete it to have it written anew.") if path.exists() else {}
    if not isinstance(listed, dict) or not all(isinstance(value, dict) for value in listed.values()):
        raise UserError(f"{path}: is not an object of data sets. Correct it, or delete it to have it written anew")
    defaults = {"data_augment": False, "repeat_time": 1, "video_read_type": "decord", "sampling_strategy": "all"}
    return listed | {DATA_SET: defaults | listed.get(DATA_SET, {}) | entry}


def _json(value: Any) -> str:
    return json.dumps(value, indent=2, ensure_ascii=False) + "\n"


def _write_all(files: dict[Path, str]) -> None:
    """Write all files beside their places, then rename them all."""
    try:
        with ExitStack() as stack:
            temporaries = [(stack.enter_context(replacing(path)), text) for path, text in files.items()]
            for temporary, text in temporaries:
                temporary.write_text(text, encoding="utf-8")
    except PermissionError as error:
        raise UserError(f"{Path(error.filename).parent}: cannot write there ({error.strerror})") from error


def _counts(clips: Sequence[LabelledClip], infos: dict[str, VideoInfo]) -> SplitCounts:
    return SplitCounts(
        clips=len(clips),
        people=len({clip.person for clip in clips} - {None}),
        exercises=len({clip.exercise for clip in clips}),
        seconds=sum(infos[clip.path].duration for clip in clips),
    )

"""Training, validation and test clips that share nobody, with every exercise spread as the ratios ask."""

import hashlib
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

from formcoach.data.annotations import LabelledClip
from formcoach.data.assignments import Assignments
from formcoach.data.placement import Group, place_groups
from formcoach.data.together import Groups, Ties, find_leaks, tie
from formcoach.errors import UserError

SPLITS = TRAIN, VAL, TEST = ("train", "val", "test")
OFFICIAL = {"train": TRAIN, "val": VAL, "valid": VAL, "validation": VAL, "test": TEST}  # as label files write them
SHOWN_LEAKS = 3


@dataclass(frozen=True)
class Settings:
    """How to split.

    Args:
        ratios: of train, val and test, each above 0, on any scale.
        seed: decides among equals and the order inside the splits.
        resplit: ignore official splits.
        drop_leaks: where official splits share somebody, leave out the clips of the one that is trained on.
    """

    ratios: Sequence[float] = (0.6, 0.2, 0.2)
    seed: int = 42
    resplit: bool = False
    drop_leaks: bool = False


DEFAULT = Settings()


@dataclass(frozen=True)
class Splitting:
    """Clips by split.

    Args:
        splits: by name, each in an order drawn by the seed, so that the first N are a fair sample.
        left_out: the other clips, by path, with the reason.
        moved: clips that are in another split than they were before.
    """

    splits: dict[str, list[LabelledClip]]
    left_out: dict[str, str] = field(default_factory=dict)
    moved: list[str] = field(default_factory=list)


@dataclass(frozen=True)
class _Known:
    """All that decides where clips may go, by path.

    Args:
        clips: in the order of their paths.
        ties: what they share.
        official: the split that the release puts a clip into, under our name.
        earlier: the splits that a clip, its person or its content was in before.
        old: the clips that were split before.
    """

    clips: dict[str, LabelledClip]
    ties: Ties
    official: dict[str, str]
    earlier: dict[str, set[str]]
    old: frozenset[str]


def split_clips(
    clips: Sequence[LabelledClip],
    settings: Settings = DEFAULT,
    ties: Ties | None = None,
    before: Assignments | None = None,
    files: Mapping[str, str] | None = None,
) -> Splitting:
    """Divide clips into train, val and test; what is tied together is not torn apart.

    Official splits are kept; where they know no validation set, it comes out of train. Clips that were assigned before
    stay where they were; a new clip that would tie old ones of two splits together is left out. Derived clips go to
    train with their source, or are left out. Each split's share of the other clips and of every exercise is as near to
    its ratio as whole groups allow (see `formcoach.data.placement`). The result depends on the arguments, not on the
    order of the clips.

    Args:
        clips: each path once.
        settings: ratios, seed and how official splits are treated.
        ties: what clips share, by path; the default: their person and source.
        before: the splits of an earlier call.
        files: what identifies the content of each clip, by path, as in `before`.

    Raises:
        UserError: official splits share something, or a split would be empty.
    """
    by_path = {clip.path: clip for clip in sorted(clips, key=lambda clip: clip.path)}
    known = _Known(
        by_path,
        tie(clips) if ties is None else ties,
        {} if settings.resplit else _official(by_path.values()),
        {path: before.of(clip, (files or {}).get(path)) for path, clip in by_path.items()} if before else {},
        frozenset(before.clips).intersection(by_path) if before else frozenset(),
    )
    left_out: dict[str, str] = {}
    members = _without_leaks(_tied(known, left_out), known, settings.drop_leaks, left_out)
    if len(members) < len(SPLITS):
        raise UserError(_too_few(clips, len(members)))
    members.sort(key=lambda paths: (-_originals(known, paths), _draw(settings.seed, paths[0])))
    places = place_groups(_groups(members, known, settings))
    if missing := sorted(set(range(len(SPLITS))) - set(places)):
        raise UserError(_empty(SPLITS[missing[0]], known, before))
    splits = _sort_into(members, places, known, left_out)
    for clips_of_split in splits.values():
        clips_of_split.sort(key=lambda clip: _draw(settings.seed, clip.path))
    earlier = before.clips if before else {}
    moved = [clip.path for name in SPLITS for clip in splits[name] if earlier.get(clip.path, name) != name]
    return Splitting(splits, left_out, sorted(moved))


def _too_few(clips: Sequence[LabelledClip], groups: int) -> str:
    if len(clips) < len(SPLITS):
        return f"{len(clips)} usable clips are too few for three splits; add clips"
    if any(clip.person is None for clip in clips):
        return (
            f"the {len(clips)} clips are only {groups} that do not share people, files or pictures, too few for three "
            "splits; add clips of others"
        )
    return (
        f"the {len(clips)} clips show only {groups} {'person' if groups == 1 else 'people'}, too few for three "
        "splits that share nobody; add clips of others, or remove worker_id from the label file to split by clip"
    )


def _empty(split: str, known: _Known, before: Assignments | None) -> str:
    if known.official:
        return f"no clip is left for {split}: the label file's own splits fix the others. Pass --resplit to split anew"
    if before:
        return f"no clip is left for {split}: all were in other splits before. Pass another --seed to split anew"
    return f"no clip is left for {split}: add clips of others"


def _official(clips: Iterable[LabelledClip]) -> dict[str, str]:
    """Return the split of each clip that has an official one."""
    official = {}
    for clip in clips:
        if clip.split is None or clip.source is not None:
            continue
        name = OFFICIAL.get(clip.split.strip().lower())
        if name is None:
            raise UserError(
                f"{clip.path}: its split {clip.split!r} in the label file is none of train, val and test. Correct it, "
                "or pass --resplit to ignore all official splits"
            )
        official[clip.path] = name
    return official


def _tied(known: _Known, left_out: dict[str, str]) -> list[list[str]]:
    """Return the clips that must stay together, by group; those that would tie old splits together are left out."""
    groups = Groups()
    splits: dict[int, set[str]] = defaultdict(set)  # of each group, where its clips were before
    for path in sorted(known.clips, key=lambda path: (path not in known.old, known.clips[path].source is not None)):
        source, ties = known.clips[path].source, known.ties[path]
        if source is not None and (source not in known.clips or source in left_out):
            left_out[path] = f"is derived from {source}, which is left out"
            continue
        found = groups.neighbours(ties)
        before = set().union(*(splits[group] for group in found), known.earlier.get(path, ()))
        if len(before) > 1 and path not in known.old and before not in [splits[group] for group in found]:
            left_out[path] = f"shares people or pictures with clips of {' and '.join(sorted(before))}, which stay apart"
            continue
        splits[groups.add(path, ties)] = before
    return [sorted(paths) for paths in groups.members()]


def _without_leaks(members: list[list[str]], known: _Known, drop: bool, left_out: dict[str, str]) -> list[list[str]]:
    """Return the groups without clips that official splits put apart; `drop` says that they may be left out.

    Raises:
        UserError: there are some and they may not.
    """
    torn = [paths for paths in members if len({known.official[path] for path in paths if path in known.official}) > 1]
    if not torn:
        return members
    if not drop:
        raise UserError(_leaks(torn, known))
    for paths in torn:
        official = {known.official[path] for path in paths if path in known.official}
        stays = max(official, key=SPLITS.index)
        for path in paths:
            if known.official.get(path, stays) != stays:
                left_out[path] = f"shares people or pictures with clips of the official {stays} split"
        for path in paths:
            if (source := known.clips[path].source) in left_out:
                left_out[path] = f"is derived from {source}, which is left out"
    kept = [[path for path in paths if path not in left_out] for paths in members]
    return [paths for paths in kept if paths]


def _leaks(torn: Sequence[Sequence[str]], known: _Known) -> str:
    splits: dict[str, list[LabelledClip]] = {name: [] for name in SPLITS}
    for paths in torn:
        for path in paths:
            if path in known.official:
                splits[known.official[path]].append(known.clips[path])
    leaks = [str(leak) for leak in find_leaks(splits, known.ties)]
    if not leaks:
        some = [next(path for path in torn[0] if known.official.get(path) == name) for name in SPLITS if splits[name]]
        leaks = [f"{' and '.join(some)} are tied to each other through other clips"]
    more = f"; and {len(leaks) - SHOWN_LEAKS} more" if len(leaks) > SHOWN_LEAKS else ""
    return (
        f"the label file's own splits share people or clips: {'; '.join(leaks[:SHOWN_LEAKS])}{more}. Pass --drop-leaks "
        "to leave the training clips among them out, or --resplit to split anew"
    )


def _originals(known: _Known, paths: Sequence[str]) -> int:
    return sum(known.clips[path].source is None for path in paths)


def _draw(seed: int, key: str) -> str:
    """Return a random-looking sort key that depends on nothing but the seed and the name."""
    return hashlib.sha256(f"{seed}:{key}".encode("utf-8", "surrogateescape")).hexdigest()


def _groups(members: Sequence[Sequence[str]], known: _Known, settings: Settings) -> list[Group]:
    """Return what is known about each group's place."""
    shares = [ratio / sum(settings.ratios) for ratio in settings.ratios]
    columns = _columns(list(known.clips.values()))
    with_val = VAL in known.official.values()
    return [_group(paths, known, columns, shares, with_val) for paths in members]


def _columns(clips: Sequence[LabelledClip]) -> dict[str, int]:
    """Number the exercises from 1; column 0 counts all clips. Names that differ in case or blanks only are one."""
    return {name: number for number, name in enumerate(sorted({_plain(clip.exercise) for clip in clips}), start=1)}


def _plain(exercise: str) -> str:
    return " ".join(exercise.casefold().split())


def _group(
    paths: Sequence[str], known: _Known, columns: Mapping[str, int], shares: Sequence[float], with_val: bool
) -> Group:
    counts: dict[int, int] = defaultdict(int)
    for path in paths:
        clip = known.clips[path]
        if clip.source is None:  # derived clips go with their source and count for nothing
            counts[0] += 1
            counts[columns[_plain(clip.exercise)]] += 1
    official = next((known.official[path] for path in paths if path in known.official), None)
    if official is None:
        allowed, own = (0, 1, 2), tuple(shares)
    elif official == TRAIN and not with_val:
        both = shares[0] + shares[1]
        allowed, own = (0, 1), (shares[0] / both, shares[1] / both, 0.0)
    else:
        allowed = (SPLITS.index(official),)
        own = tuple(float(name == official) for name in SPLITS)
    before = {SPLITS.index(split) for path in paths for split in known.earlier.get(path, ())} & set(allowed)
    if before:
        allowed = (min(before),)  # of several towards train: a model may have been trained on the clips
    return Group(tuple(counts.items()), allowed, own)


def _sort_into(
    members: Sequence[Sequence[str]], places: Sequence[int], known: _Known, left_out: dict[str, str]
) -> dict[str, list[LabelledClip]]:
    """Return the clips by split; derived ones outside of train are left out."""
    splits: dict[str, list[LabelledClip]] = {name: [] for name in SPLITS}
    for paths, place in zip(members, places, strict=True):
        for path in paths:
            clip = known.clips[path]
            if clip.source is None or SPLITS[place] == TRAIN:
                splits[SPLITS[place]].append(clip)
            else:
                left_out[path] = f"is derived from {clip.source}, which is in {SPLITS[place]}"
    return splits

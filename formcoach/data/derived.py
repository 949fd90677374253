"""Clips that were made from others by augmentation: their labels are those of their source, as the picture has them."""

from collections.abc import Mapping, Sequence
from dataclasses import replace

from formcoach.data.annotations import LabelledClip, ManifestEntry
from formcoach.data.augment import is_mirrored
from formcoach.data.sides import swap_sides


def derive(
    clips: Sequence[LabelledClip], derived: Mapping[str, ManifestEntry]
) -> tuple[list[LabelledClip], list[tuple[str, str]]]:
    """Give derived clips their source, its person and, where no record of their own labels them, its labels.

    Args:
        clips: labelled by records.
        derived: clips on disk that `manifest.json` names a source for.

    Returns:
        All clips, in the order of their paths, and the derived ones that cannot be labelled, each with the reason.
    """
    labelled = {clip.path: clip for clip in clips}
    orphans = []
    for path in sorted(derived):
        source, mirrored = _origin(path, derived)
        original = labelled.get(source) if source is not None else None
        if path in labelled and source is not None:
            person = labelled[path].person or (original.person if original else None)
            labelled[path] = replace(labelled[path], source=source, person=person)
        elif original is not None:
            labelled[path] = _follow(original, path, mirrored)
        elif source is None:
            orphans.append((path, "is derived from itself, says manifest.json"))
        else:
            orphans.append((path, f"is derived from {source}, which is not there or has no labels"))
    return [labelled[path] for path in sorted(labelled)], orphans


def _origin(path: str, derived: Mapping[str, ManifestEntry]) -> tuple[str | None, bool]:
    """Return the clip that a derived one goes back to, None if it goes in a circle, and whether it is mirrored."""
    seen, mirrored = set(), False
    while path in derived:
        if path in seen:
            return None, False
        seen.add(path)
        mirrored ^= is_mirrored(derived[path].augmentations)
        path = derived[path].source or path
    return path, mirrored


def _follow(original: LabelledClip, path: str, mirrored: bool) -> LabelledClip:
    clip = replace(original, path=path, source=original.path)
    if not mirrored:
        return clip
    return replace(
        clip,
        labels=tuple(map(swap_sides, clip.labels)),
        answer=swap_sides(clip.answer),
        exercise=swap_sides(clip.exercise),
        feedback=swap_sides(clip.feedback),
        questions=tuple((swap_sides(question), swap_sides(answer)) for question, answer in clip.questions),
    )

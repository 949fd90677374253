"""Check that training can start: packages, GPU, data, every clip, scripts and disk; one line a check."""

from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING

from formcoach.command import add_folders, command_parser, run
from formcoach.config import PROJECT
from formcoach.errors import UserError
from formcoach.verify import FAIL, Setup, check_packages, checks

if TYPE_CHECKING:
    from formcoach.models.family import Family


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command.

    Raises:
        UserError: training cannot start; says what to put right.
    """
    packages = check_packages()
    if packages.mark == FAIL:
        raise UserError(str(packages))

    from formcoach.models import FAMILIES

    parser = command_parser(__doc__, "python utils/verify_setup.py --dataset-dir dataset")
    add_folders(parser, "labels and clips", "the three split files")
    keys = [family.key for family in FAMILIES]
    parser.add_argument("--family", choices=keys, help=f"of the model (default: what --model is, else {keys[0]})")
    parser.add_argument("--model", metavar="NAME", help="what shall be trained (default: by --family and GPU)")
    parser.add_argument("--work-dir", type=Path, metavar="DIR", help="where runs are written (default: the family's)")
    parser.add_argument(
        "--project-dir", type=Path, default=Path(), help="where default run directories lie (%(default)s)"
    )
    args = parser.parse_args(argv)

    family = _family(args.family, args.model)
    work_dir = args.work_dir or args.project_dir / family.runs.work_dir
    failed = []
    for check in checks(Setup(PROJECT, args.dataset_dir, args.output_dir, family, args.model, work_dir)):
        print(check, flush=True)
        failed += [check.what] if check.mark == FAIL else []
    if failed:
        raise UserError(f"training cannot start: {', '.join(failed)} (lines marked {FAIL}); put that right first")
    print(f"training can start: bash {family.script}")
    return 0


def _family(key: str | None, model: str | None) -> "Family":
    """Return the family to check for: the one that is named, else the model's, else the first.

    Raises:
        UserError: the model is not of the family that is named.
    """
    from formcoach.models import FAMILIES, check_family, family_named, family_of

    found = None
    if model is not None:
        with suppress(UserError):  # a line of the checks says what is wrong with it
            found = family_of(model)
    if found is None:
        return FAMILIES[0] if key is None else family_named(key)
    check_family(str(model), found, key)
    return found


if __name__ == "__main__":
    run(main)

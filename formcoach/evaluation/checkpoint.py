"""What is evaluated: a tuned checkpoint and its base, where its results go, and what identifies them."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from formcoach.errors import UserError
from formcoach.evaluation.evaluate import TestSet
from formcoach.inference.fingerprints import checkpoint_fingerprint
from formcoach.inference.kept_answers import Settings
from formcoach.models.location import RUN_SETTINGS, Location, locate

RESULTS = Path("results")


@dataclass(frozen=True)
class Checkpoint:
    """A model on disk.

    Args:
        named: as the user named it.
        location: its base and, if it is tuned, its adapter.
    """

    named: str
    location: Location

    @classmethod
    def find(cls, model_path: str, base_model: str | None = None) -> "Checkpoint":
        """Find what a user means with `--model_path` and `--base_model`.

        Raises:
            UserError: there is no such model.
        """
        return cls(model_path, locate(base_model, adapter=model_path) if base_model else locate(model_path))

    def require_adapter(self) -> None:
        """Refuse a base model where a tuned one is asked for.

        Raises:
            UserError: there is no adapter.
        """
        if self.location.adapter is None:
            raise UserError(
                f"--model_path {self.named}: no adapter there, so there is nothing to compare with its base; "
                "python utils/base_model_inference.py answers with a base model"
            )

    @property
    def results(self) -> Path:
        """Where the results go: `evaluation/` of the run, a folder of its own there for a checkpoint named apart."""
        named = Path(self.named)
        if (named / RUN_SETTINGS).is_file():
            return named / "evaluation"
        if self.location.adapter is None:
            name, at, revision = self.named.rstrip("/").partition("@")
            return RESULTS / "base_model" / (name.rsplit("/", 1)[-1] + at + revision.replace("/", "-"))
        adapter = self.location.adapter
        if (adapter.parent / RUN_SETTINGS).is_file():
            return adapter.parent / "evaluation" / adapter.name
        return RESULTS / adapter.name

    def settings(self, test_set: TestSet, frames: str, args: Any, *, base: bool) -> Settings:
        """Return what the answers depend on.

        Args:
            test_set: the questions.
            frames: a kind of `formcoach.inference.frames`.
            args: the parsed flags of `formcoach.inference.options.add_model_flags`.
            base: whether the base model answers (adapter off).
        """
        adapter = None if base else self.location.adapter
        folders = [self.location.base] if adapter is None else [adapter, self.location.base]
        return Settings(
            model=self.location.name if base else self.named,
            fingerprint=checkpoint_fingerprint(folders),
            test_file=str(test_set.file),
            max_new_tokens=args.max_new_tokens,
            frames=frames,
            precision=f"{args.quantization or 'as stored'} on {args.device}",
        )

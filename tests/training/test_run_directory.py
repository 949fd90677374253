"""What a run directory says about its run, and what that is compared with."""

import msgspec
import pytest

from formcoach.errors import UserError
from formcoach.files import write_json
from formcoach.training.run_directory import SETTINGS, check_same_run, describe_run, read_description

COMMIT = "0123456789" * 4


def described(model, base, revision, **settings):
    return describe_run({"model": model, **settings}, base, revision, {}, [])


@pytest.fixture
def run(tmp_path):
    write_json(tmp_path / SETTINGS, msgspec.to_builtins(described("org/name", "weights", COMMIT, lr=1.0)))
    return tmp_path


def test_the_base_may_be_named_otherwise_while_its_weights_are_the_same(run):
    assert read_description(run).revision == COMMIT
    for model, revision in ((f"org/name@{COMMIT}", COMMIT), ("/models/name", None)):
        check_same_run(run, described(model, "weights", revision, lr=1.0), frozenset())
    with pytest.raises(UserError, match=r"lr was 1\.0 and is 2\.0"):
        check_same_run(run, described("org/name", "weights", COMMIT, lr=2.0), frozenset())


def test_a_base_that_moved_on_is_named_with_the_revision_of_then(run):
    with pytest.raises(UserError, match=rf"weights of org/name have changed \(it was trained on org/name@{COMMIT}\)"):
        check_same_run(run, described("org/name", "other weights", "f" * 40, lr=1.0), frozenset())


def test_a_run_of_before_revisions_were_recorded_is_read(run):
    write_json(run / SETTINGS, {"settings": {}, "base": "", "resolved": {}, "versions": {}, "data": {}})
    assert read_description(run).revision is None

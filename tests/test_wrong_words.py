"""Words that a beginner would try: each is answered by the words that do it."""

from __future__ import annotations

from pathlib import Path

import pytest

from cnnlab.cli import main
from cnnlab.config import keys_like


@pytest.mark.parametrize(
    ("words", "answer"),
    [
        (
            ["train", "photos"],
            "expected key=value, got 'photos'; for the images of this folder: data=folder data.root=",
        ),
        (["train", "data=photos"], "a folder of that name is here: data=folder data.root=photos"),
        (["data", "photos"], "a folder of that name is here: data=folder data.root=photos"),
        (["train", "--data", "photos"], "settings are written without dashes, as data=photos"),
        (["train", "--epochs", "3"], "as trainer.epochs=3"),
        (["train", "--batch-size=8"], "as trainer.batch_size=8"),
        (["train", "--learning_rate", "0.1"], "as optimizer.lr=0.1"),
        (["train", "--epochs"], "as trainer.epochs=VALUE"),
        (["train", "lr=0.1"], "Did you mean 'optimizer.lr'?"),
        (["train", "learning_rate=0.1"], "Did you mean 'optimizer.lr'?"),
        (["train", "batch_size=8"], "Did you mean 'trainer.batch_size'?"),
        (["train", "depth=20"], "Did you mean 'model.depth'?"),
        (["predict", "cat.jpg", "runs/mine"], "cat.jpg is a file; the run comes first"),
        (["test"], "required: RUN; see"),
        (["test", "photos2"], "there is no run folder photos2.\n"),
    ],
)
def test_wrong_words_are_answered_by_the_right_ones(
    words: list[str], answer: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("photos").mkdir()
    Path("cat.jpg").touch()
    try:
        code = main(words)
    except SystemExit as left:
        code = int(str(left.code))
    error = capsys.readouterr().err
    assert code == 2 and answer in error and error.count("\n") == 1
    assert not Path("runs").exists()


def test_keys_are_found_by_their_last_name() -> None:
    assert keys_like("epochs") == ["trainer.epochs"]
    assert keys_like("root") == ["adapt.root", "data.root"]
    assert keys_like("nothing") == []

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
        (["train", "epochs=3"], "Did you mean 'trainer.epochs'?"),
        (["train", "dropout=0.2"], "Did you mean 'model.dropout'?"),
        (["train", "pretrained=true"], "Did you mean 'init.from'?"),
        (["train", "trainer.learning_rate=0.1"], "Did you mean 'optimizer.lr'?"),
        (["train", "trainer.lr=0.1"], "Did you mean 'optimizer.lr'?"),
        (["train", "trainer.dropout=0.2"], "Did you mean 'model.dropout'?"),
        (["train", "trainer.xyzzy=3"], "Known: trainer.accumulate, trainer.balanced_sampling"),
        (["train", "datta.root=photos"], "Did you mean 'data.root'?"),
        (["train", "optimizer.learning_rate=0.1"], "Did you mean 'optimizer.lr'?"),
        (["train", "model.lr=0.1"], "Did you mean 'optimizer.lr'?"),
        (["train", "data=any"], "stands for a class of your own: name its file and the class, as data=mine:Own"),
        (["train", "model=any"], "stands for a class of your own: name its file and the class, as model=mine:Own"),
        (["train", "data=xyzzy"], "Known: caltech101, cifar10"),
        (["train", "init.from=resnet18"], "init.from=torchvision:resnet18."),
        (["train", "init.from=torchvision/ResNet18"], "init.from=torchvision:resnet18."),
        (["train", "init.from=xyzzy"], "torchvision:NAME, such as torchvision:resnet18."),
        (["train", "data=folder"], "add data.root=FOLDER, such as data.root=photos. (Without it data is looked at"),
        (["data", "folder"], "add data.root=FOLDER, such as data.root=photos."),
        (["train", "data=folder", "data.root=photos"], "give the folder that holds these: data.root=FOLDER."),
        (["model", "convnet", "data.root=x"], "no set is opened here"),
        (["model", "convnet", "data.image_size=64"], "here write image_size=64."),
        (["model", "convnet", "depth"], "'depth' is not of the form key=value"),
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


@pytest.mark.parametrize("words", [["help"], ["help", "train"]])
def test_help_is_also_a_command(words: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as left:
        main(words)
    assert left.value.code == 0
    assert capsys.readouterr().out.startswith(f"usage: cnnlab {words[-1] if words[1:] else '[-h]'}")


def test_keys_are_found_by_their_last_name() -> None:
    assert keys_like("epochs") == ["trainer.epochs"]
    assert keys_like("root") == ["adapt.root", "data.root"]
    assert keys_like("nothing") == []

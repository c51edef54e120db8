"""The command line: what it prints, its exit codes, and its manners in a pipe."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
import yaml
from PIL import Image

import cnnlab
from cnnlab import config
from cnnlab.cli import main
from cnnlab.cli.commands import COMMANDS

if TYPE_CHECKING:
    from conftest import CommandLine

# ---- help


@pytest.mark.parametrize("words", [[], ["--help"], ["-h"]])
def test_help_names_every_command(words: list[str], command: CommandLine) -> None:
    result = command(*words)
    assert (result.code, result.err) == (0, "")
    for name in COMMANDS:
        assert re.search(rf"^    {name} ", result.out, re.MULTILINE), name


@pytest.mark.parametrize("name", COMMANDS)
def test_help_of_a_command_shows_its_examples(name: str, command: CommandLine) -> None:
    result = command(name, "--help")
    assert result.code == 0
    assert COMMANDS[name].EXAMPLES.splitlines()[1].strip() in result.out


def test_the_examples_of_training_compose() -> None:
    lines = [line.split("  #")[0].split() for line in COMMANDS["train"].EXAMPLES.splitlines()[1:]]
    for words in lines:
        assert words[:2] == ["cnnlab", "train"]
        overrides = [word for word in words[2:] if "=" in word and not word.startswith(("experiment=", "runs/"))]
        assert config.compose(overrides)


def test_the_version_is_that_of_the_package(command: CommandLine) -> None:
    assert command("--version").out == cnnlab.__version__ + "\n"


def test_options_list_every_group_and_key_with_its_default(command: CommandLine) -> None:
    result = command("train", "--options")
    assert result.code == 0
    for group in config.GROUPS:
        listed = set(re.findall(r"[\w]+", re.search(rf"^  {group} .*(?:\n {{13}}.*)*", result.out, re.MULTILINE)[0]))
        assert set(config.options(group)) - {"any"} <= listed
    chosen = {f"{group}.name" for group in config.GROUPS}  # by their options
    for key in (set(config.known_keys()) - chosen - set(config.ALIASES.values())) | set(config.ALIASES):
        assert re.search(rf"^  {re.escape(key)}=.*\n {{6}}\S", result.out, re.MULTILINE), key
    assert "  trainer.epochs=30  (recipe digits; default: 10)\n" in result.out


# ---- mistakes on the line itself


@pytest.mark.parametrize(
    ("words", "named"),
    [
        (["trian"], "Did you mean 'train'?"),
        (["studdy", "x"], "Did you mean 'study'?"),
        (["train", "--fast"], "--fast"),
        (["train", "trainer.epochs=1", "-x"], "-x"),
        (["test"], "RUN"),
        (["test", "a", "b"], "b"),
        (["test", "a", "--split", "tset"], "tset"),
        (["predict", "a"], "PATH"),
        (["predict", "a", "b", "--topk", "many"], "many"),
        (["resume"], "RUN"),
        (["test", "a", "trainer.epochs=3"], "trainer.epochs=3"),
        (["compare"], "RUN"),
        (["data"], "NAME"),
        (["data", "digitz"], "digits"),
        (["--verbose"], "--verbose"),
    ],
)
def test_a_wrong_line_is_answered_with_one(words: list[str], named: str, command: CommandLine) -> None:
    result = command(*words)
    assert result.code == 2
    assert result.out == ""
    assert len(result.error_lines) == 1
    assert named in result.err


IMAGE = "europe-docker.pkg.dev/p/r/cnnlab:1"


@pytest.mark.parametrize(
    ("words", "named"),
    [
        (["data", "digits", "trainer.epochs=3"], "'trainer.epochs=3'"),
        (["data", "digits", "model=mlp"], "'model=mlp'"),
        (["data", "digits", "optimizer.lr=0.1"], "'optimizer.lr=0.1'"),
        (["data", "digits", "run.dir=x"], "'run.dir=x'"),
        (["data", "digits", "init.from=x"], "'init.from=x'"),
        (["data", "digits", "+trainer.epochs=3"], "'+trainer.epochs=3'"),
        (["data", "digits", "trainer.epoch=3"], "'trainer.epochs'"),
        (["data", "digits", "data=mnist"], "'data=mnist'"),
        (["train", "--options", "trainer.epoch=3"], "'trainer.epochs'"),
        (["train", "--explain", "--spec", "vertex"], "--spec"),
        (["train", "-m", "model=mlp,vgg"], "cnnlab study model=mlp,vgg"),
        (["train", "--multirun", "model=mlp", "seed=1"], "cnnlab study model=mlp seed=1"),
        (["train", "model=mlp,vgg"], "cnnlab study model=mlp,vgg"),
        (["train", "model.depth=8,14"], "cnnlab study model.depth=8,14"),
        (["train", "--config", "nowhere.yaml"], "nowhere.yaml"),
        (["train", "--config-dir", "nowhere"], "nowhere"),
        (["data=mnist"], "cnnlab train data=mnist"),
        (["train", "--options", "--resume"], "--resume"),
        (["train", "--image", IMAGE], "--image"),
        (["train", "--machine", "n1-standard-8"], "--machine"),
        (["train", "--accelerator", "NVIDIA_L4"], "--accelerator"),
        (["train", "--spot"], "--spot"),
        (["train", "--disk", "0"], "--disk"),
        (["train", "--service-account", "a@b"], "--service-account"),
        (["resume", "nowhere", "--spot"], "--spot"),
        (["resume", "nowhere", "--devices", "0"], "--devices"),
        (["resume", "gs://b/r", "--devices", "0", "--spec", "vertex", "--image", IMAGE], "--devices"),
        (["resume", "gs://b/r", "--data-root", "photos", "--spec", "vertex", "--image", IMAGE], "photos"),
        (["demo", "nowhere", "--image", IMAGE], "--image"),
        (["demo", "nowhere", "--secret", "s"], "--secret"),
        (["demo", "gs://b/r", "--spec", "cloudrun", "--image", IMAGE, "--host", "0.0.0.0"], "--host"),
        (["demo", "gs://b/r", "--spec", "cloudrun", "--image", IMAGE, "--port", "0"], "--port"),
        (["model", "--list", "resnet"], "'resnet'"),
        (["model", "--list", "--json"], "--json"),
        (["study", "--list", "width"], "'width'"),
        (["study", "--list", "--seeds", "2"], "--seeds"),
        (["study", "--list", "--dry-run"], "--dry-run"),
        (["study", "model.depth=8,14", "study.address=h:1", "--dry-run"], "study.address"),
        (["study", "model.depth=8,14", "+seed=3", "--dry-run"], "seed=3"),
        (["study", "model.depth=8,14", "+run.dir=x", "--dry-run"], "run.dir=x"),
        (["study", "model.depth=8,14", "study.dir=", "--dry-run"], "study.dir="),
        (["study", "model=resnet", "model.depth=8,14", "data.root=${oc.env:HOME}", "--dry-run"], "data.root"),
    ],
)
def test_an_option_that_would_change_nothing_is_refused(words: list[str], named: str, command: CommandLine) -> None:
    result = command(*words)
    assert result.code == 2, result.out
    assert result.out == ""
    assert len(result.error_lines) == 1
    assert named in result.err


def test_a_job_and_a_service_get_the_options_that_they_can_use(command: CommandLine) -> None:
    more = ["--devices", "2", "--data-root", "gs://b/p", "--trust-code"]
    job = command("resume", "gs://b/r", *more, "--spec", "vertex", "--image", IMAGE)
    arguments = yaml.safe_load(job.out)["workerPoolSpecs"][0]["containerSpec"]["args"]
    assert arguments[:2] == ["resume", "gs://b/r"]
    assert set(more) <= set(arguments)
    service = command("demo", "gs://b/r", "--trust-code", "--spec", "cloudrun", "--image", IMAGE)
    (container,) = yaml.safe_load(service.out)["spec"]["template"]["spec"]["containers"]
    assert container["args"][-1] == "--trust-code"
    service = command("demo", "gs://b/r", "--token", "t0p", "--spec", "cloudrun", "--image", IMAGE)
    assert "--token is not included: store it in the secret cnnlab-token" in service.out and "t0p" not in service.out


def test_masks_are_for_a_model_of_pixels(command: CommandLine, finished_run: Path, tmp_path: Path) -> None:
    result = command("predict", finished_run, "-", "--out", tmp_path / "masks")
    assert (result.code, result.out) == (2, "")
    assert len(result.error_lines) == 1 and "--out" in result.err
    assert not (tmp_path / "masks").exists()


def test_looking_at_a_set_takes_what_loads_it(command: CommandLine) -> None:
    words = ["data.limit=50", "seed=1", "augment=none", "augment.zoom=0.1", "recipe=default", "trainer.batch_size=8"]
    result = command("data", "digits", *words, "data.max_corrupt=0.5", "--json")
    assert result.code == 0, result.err


def test_options_may_stand_before_and_after_the_overrides(command: CommandLine, tmp_path: Path) -> None:
    for words in (["--json", "data.limit=50"], ["data.limit=50", "--json"], ["data.limit=50", "--json", "seed=0"]):
        result = command("data", "digits", *words)
        assert result.code == 0, result.err
        assert json.loads(result.out)["pictures"]["train"] == 50


# ---- train


def test_training_prints_epochs_a_table_and_the_folder(
    command: CommandLine, tmp_path: Path, tiny: Sequence[str]
) -> None:
    result = command("train", *tiny, "logger=none", cwd=tmp_path)
    assert (result.code, result.err) == (0, "")
    assert "\x1b" not in result.out
    (folder,) = (tmp_path / "runs").iterdir()
    lines = result.out.splitlines()
    assert lines[0] == str(folder.relative_to(tmp_path))
    assert [line.split()[0] for line in lines if re.match(r" +\d/2 ", line)] == ["1/2", "2/2"]
    (validation,) = [line for line in lines if line.startswith("validation, epoch")]
    assert validation.split()[-1] == str(json.loads((folder / "split.json").read_text())["sizes"]["val"])
    assert any(line.startswith("test ") for line in lines)
    assert lines[-2].endswith(lines[0])
    assert lines[-1].endswith("report.html")
    assert json.loads((folder / "environment.json").read_text(encoding="utf-8"))["command"][1] == "train"


def test_the_working_directory_never_changes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert main(["train", "model=mlp", "model.hidden=[4]", "data.limit=20", "trainer.epochs=1", "run.name=a"]) == 0
    assert Path.cwd() == tmp_path
    assert [path.name for path in tmp_path.iterdir()] == ["runs"]
    assert (tmp_path / "runs" / "a" / "report.html").exists()


@pytest.mark.skipif(os.name == "nt", reason="Windows has no such signals")
def test_a_run_stopped_before_its_first_step_can_go_on(
    command: CommandLine, tmp_path: Path, tiny: Sequence[str]
) -> None:
    folder, words = tmp_path / "run", [*tiny, "trainer.epochs=60"]  # not over before the signal is sent
    running = command.start("train", *words, f"run.dir={folder}")
    running.wait_until(lambda: (folder / ".lock").exists())
    running.send(signal.SIGINT)
    result = running.wait()
    assert result.code == 130
    assert "Traceback" not in result.err
    again = ["resume", folder] if (folder / "config.yaml").exists() else ["train", *words, f"run.dir={folder}"]
    assert command(*again).code == 0


def test_resuming_a_finished_run_says_so(command: CommandLine, finished_run: Path) -> None:
    result = command("resume", finished_run)
    assert (result.code, result.err) == (0, "")
    assert "finished" in result.out
    assert str(finished_run) in result.out


# ---- data


def test_data_prints_splits_counts_sizes_and_statistics(command: CommandLine) -> None:
    result = command("data", "digits", "seed=3")
    assert (result.code, result.err) == (0, "")
    assert "1,797" in result.out
    assert "8×8" in result.out
    rows = [line.split() for line in result.out.splitlines() if re.match(r"  \d +\d", line)]
    assert len(rows) == 10
    assert sum(int(count) for row in rows for count in row[1:]) == 1797


def test_data_shows_a_batch_and_checks_the_set(command: CommandLine, tmp_path: Path) -> None:
    image = tmp_path / "batch.png"
    result = command("data", "digits", "data.limit=40", "--show", image, "--check", "--json")
    assert result.code == 0
    assert "check" in json.loads(result.out)
    with Image.open(image) as shown:
        assert shown.width > 400
    assert "batch.png" in result.err


@pytest.mark.parametrize("name", ["batch.txt", "nowhere/deep/batch.xyz", "nowhere/deep/batch.png"])
def test_a_batch_that_cannot_be_written_is_one_line_and_no_table(name: str, command: CommandLine) -> None:
    result = command("data", "digits", "data.limit=40", "--show", name)
    assert (result.code, result.out) == (2, "")
    assert len(result.error_lines) == 1


# ---- as a real program


def environment() -> dict[str, str]:
    return {**os.environ, "PYTHONUNBUFFERED": "1"}


def test_the_module_can_be_run_and_gives_its_exit_code(tmp_path: Path) -> None:
    words = [sys.executable, "-m", "cnnlab.cli", "train", "model=resnt"]
    answer = subprocess.run(words, capture_output=True, text=True, cwd=tmp_path)
    assert answer.returncode == 2
    assert answer.stderr == "cnnlab train: unknown model 'resnt'. Did you mean 'resnet'?\n"
    assert list(tmp_path.iterdir()) == []


def test_the_installed_command_is_there() -> None:
    program = shutil.which("cnnlab", path=str(Path(sys.executable).parent))
    if program is None:
        pytest.skip("the package is not installed in this environment")
    assert subprocess.run([program, "--version"], capture_output=True, text=True).stdout == cnnlab.__version__ + "\n"


@pytest.mark.skipif(os.name == "nt", reason="Windows has other pipes")
def test_a_reader_that_leaves_is_no_failure(tmp_path: Path) -> None:
    """As `cnnlab train --options | head -1` does."""
    for words in (["train", "--options"], ["--help"]):
        process = subprocess.Popen(
            [sys.executable, "-c", f"import sys\nfrom cnnlab.cli import main\nsys.exit(main({words!r}))"],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
        )
        assert process.stdout is not None
        assert process.stderr is not None
        process.stdout.close()
        error = process.stderr.read()
        assert (process.wait(), error) == (0, b""), words


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs a device that is always full")
def test_output_that_cannot_be_written_is_told_by_the_exit_code() -> None:
    for words in (["model", "--list"], ["train", "--options"]):
        with open("/dev/full", "wb") as full:
            done = subprocess.run([sys.executable, "-m", "cnnlab", *words], stdout=full, stderr=subprocess.PIPE)
        assert done.returncode in (1, 2), words
        assert b"Traceback" not in done.stderr
        assert done.stderr.count(b"\n") == 1


def test_the_command_ends_as_main_does(tmp_path: Path) -> None:
    """The process is left without the interpreter's own end: what was printed must be out, and exit handlers run."""
    code = "import atexit, pathlib, sys\nfrom cnnlab.cli import command_line\n"
    code += f"atexit.register(pathlib.Path({str(tmp_path / 'ran')!r}).touch)\n"
    for words, expected in ((["model", "--list"], 0), (["model", "nosuchnet"], 2)):
        run = f"{code}sys.argv[1:] = {words!r}\ncommand_line()"
        done = subprocess.run([sys.executable, "-c", run], capture_output=True, text=True)
        assert (done.returncode, bool(done.stdout), bool(done.stderr)) == (expected, not expected, bool(expected))
        assert (tmp_path / "ran").exists()
        (tmp_path / "ran").unlink()


def test_the_first_step_comes_soon(tmp_path: Path) -> None:
    """Within 5 s of the command on an idle machine; here three times that, because others may be at work."""
    words = [sys.executable, "-m", "cnnlab.cli", "train", "trainer.epochs=1", "model.width=8", "run.dir=run"]
    began = time.monotonic()
    process = subprocess.Popen(words, stdout=subprocess.PIPE, stderr=subprocess.PIPE, cwd=tmp_path)
    while process.poll() is None and not (tmp_path / "run" / "metrics.jsonl").exists():
        time.sleep(0.05)
    first_epoch = time.monotonic() - began
    process.communicate()
    assert process.returncode == 0
    assert first_epoch < 15

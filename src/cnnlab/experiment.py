"""One run: data → model → fit → test once → report. A `Session` is a run in progress."""

from __future__ import annotations

import copy
import dataclasses
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import nn

from cnnlab.config import Config, with_changes
from cnnlab.data.build import build_data
from cnnlab.data.catalog import has_root
from cnnlab.data.data import Data
from cnnlab.data.notes import notes
from cnnlab.errors import ConfigError, RunError
from cnnlab.evaluation.evaluate import run_test
from cnnlab.explain.object_scale import measure_objects
from cnnlab.files import is_remote, whole_address
from cnnlab.models.plain import is_own
from cnnlab.report.write import write_report
from cnnlab.representation import as_html, as_text
from cnnlab.runs.addresses import check_root, is_address, refuse_root, with_whole_addresses
from cnnlab.runs.copies import address_of
from cnnlab.runs.environment import describe
from cnnlab.runs.files import read_record, write_json
from cnnlab.runs.folder import RunFolder, read_config, read_environment, read_split
from cnnlab.runs.opened import begin_run, has_begun, opened_run, opened_source
from cnnlab.runs.schema import INIT
from cnnlab.runs.space import check_space
from cnnlab.runs.upload import publish, uploading
from cnnlab.runs.weights import load_model
from cnnlab.tasks.losses import LossFunction
from cnnlab.tracking.base import Noted, Tested, Tracker, Trackers
from cnnlab.tracking.chosen import folder_trackers
from cnnlab.tracking.console import percent
from cnnlab.tracking.notebook import curves
from cnnlab.training.build import build_model, ends_in_softmax, import_code, initialise
from cnnlab.training.describe import describe_run
from cnnlab.training.distributed import ALONE, Group, device_of, joined, threads_of
from cnnlab.training.loop import borrowed, never, train
from cnnlab.training.precision import prepare_process, threads_for
from cnnlab.training.trainer import Trainer

Progress = Callable[[int, int], None]


@dataclass(frozen=True, repr=False)
class Run:
    """A finished run: its folder, its history (one row per epoch) and its test metrics (None without a test split)."""

    dir: Path
    history: list[dict[str, Any]]
    test: dict[str, Any] | None

    def __repr__(self) -> str:
        return as_text(f"Run {self.dir}", self._facts)

    def _repr_html_(self) -> str:
        return as_html(f"Run {self.dir}", self._facts) + (curves(self.history) if self.history else "")

    @property
    def _facts(self) -> dict[str, str]:
        facts = {"epochs": str(len(self.history))}
        folder = RunFolder(self.dir)
        kept = folder.read_card() if folder.card.exists() else {}
        if kept.get("val_accuracy") is not None:
            facts["validation accuracy"] = f"{percent(kept['val_accuracy'])} (epoch {kept['epoch']})"
        if self.test is not None:
            low, high = (percent(value) for value in self.test["accuracy_interval"])
            facts["test accuracy"] = f"{percent(self.test['accuracy'])} (95 %: {low} to {high})"
        else:
            facts["test accuracy"] = "not tested"
        return facts | {"report": str(self.dir / "report.html")}


@dataclass
class Session:
    """A run in progress: its config, its folder, the processes that train it together, and who listens.

    Args:
        group: of several processes each has a session, and the first one writes, tests and reports.
        own_loss: a loss that Python gave, where no name in the config finds it.
        test: False ends after the training; a resume would test.
        by_fit: `cnnlab.fit` began it, so that hints name the arguments of Python.
        should_stop: see `run_experiment`.
    """

    config: Config
    folder: RunFolder
    group: Group = ALONE
    trackers: Sequence[Tracker] = ()
    own_loss: LossFunction | None = None
    test: bool = True
    by_fit: bool = False
    should_stop: Callable[[], bool] = never

    def begin(self, data: Data, model: nn.Module, command: Sequence[str] = ()) -> Run:
        """A new run, from its first step to its report."""
        with borrowed(model):
            return self._begin(data, model, command)

    def _begin(self, data: Data, model: nn.Module, command: Sequence[str]) -> Run:
        config, folder, group = self.config, self.folder, self.group
        if group.first:
            folder.refuse_if_taken()
            check_space(folder, model)
        with opened_source(config.init.source) as source:
            begun = initialise(model, config, data, source)
        trainer = self.trainer(model, data)
        listeners = self.listeners()
        shape = (data.in_channels, *data.image_size)
        with threads_for(config.trainer, data.train.device, model, shape), self.locked():
            if group.first:
                folder.refuse_if_taken()
            trainer.save()  # before config.yaml makes it a run: where its weights begin may not be there at a resume
            trainer.writer.wait()
            if group.first:
                run = dataclasses.replace(config.run, dir=config.run.dir and whole_address(config.run.dir))
                facts = describe(list(command), group.size)
                folder.start(dataclasses.replace(config, run=run), facts, data.manifest, begun)
            return self.finish(trainer, listeners, resumed=False)

    def resume(self, data: Data, trust_code: bool = False, changed: Config | None = None) -> Run:
        """A run that has begun, from its last saved state to its report; the folder is locked by the caller.

        Args:
            changed: what config.yaml says from now on, once the training has taken it; None: what it said.
        """
        trainer = self.trainer(build_model(self.config, data, trust_code, resumed=True), data)
        if self.group.first and changed is not None:
            self.folder.write_config(changed)
        return self.finish(trainer, self.listeners(), resumed=True)

    def finish(self, trainer: Trainer, listeners: Sequence[Tracker], resumed: bool) -> Run:
        """Train to the end, test once, report. Of several processes the first does what comes after the training."""
        with self.told(listeners) as trackers:
            self.tell(trainer, trackers)
            history = train(trainer, trackers, self.facts(trainer), resumed, self.by_fit, self.should_stop)
            self.group.leave()
            if not (self.group.first and self.test):
                return Run(self.folder.path, history, None)
            return Run(self.folder.path, history, self.test_and_report(trainer, trackers))

    def test_and_report(self, trainer: Trainer, trackers: Trackers) -> dict[str, Any] | None:
        """The content of test.json, None without a test split; and report.html of the best weights."""
        data = trainer.data
        same = copy.deepcopy(trainer.model) if is_own(trainer.model) else None  # no name builds it
        best, _ = load_model(self.folder, data.test.device, model=same)
        if (scale := measure_objects(data)) is not None:
            write_json(self.folder.objects, dataclasses.asdict(scale))
        outputs = run_test(self.folder, best, data) if data.test.count else None
        if outputs is not None:
            numbers = {key: value for key, value in outputs.metrics.items() if isinstance(value, int | float)}
            trackers.log(Tested(numbers, str(self.folder.weights)))
        write_report(self.folder, data, outputs, best, self.by_fit)
        return outputs.metrics if outputs is not None else None

    # ---- what these are made of

    def trainer(self, model: nn.Module, data: Data) -> Trainer:
        return Trainer(model, data, self.config, self.folder, self.group, self.own_loss)

    def tell(self, trainer: Trainer, trackers: Trackers) -> None:
        """What to know before the training."""
        data = trainer.data
        if self.group.restarted:
            trackers.log(Noted("a process was lost; training resumes from the last checkpoint", True))
        if data.quarantined:
            count = len(data.quarantined)
            what = "1 image cannot be read and is" if count == 1 else f"{count} images cannot be read and are"
            trackers.log(Noted(f"{what} left out; split.json has names and reasons", True))
        for note in notes(data):
            trackers.log(Noted(note, True))
        if self.group.first and self.own_loss is None and ends_in_softmax(trainer.model, data, self.config):
            trackers.log(
                Noted(
                    "the network gives probabilities, not negative and with a sum of 1, and the loss wants logits:"
                    " leave out the softmax at its end, or it trains slowly and badly.",
                    True,
                )
            )

    def facts(self, trainer: Trainer) -> dict[str, str]:
        """The run in words, as it begins."""
        facts = describe_run(trainer.model, trainer.data)
        if address := address_of(self.folder.path):
            facts["uploads to"] = address
        if self.folder.init.exists():
            begun = read_record(self.folder.init, INIT)
            facts["weights"] = f"from {begun['source']}: {begun['summary']}"
        return facts

    def listeners(self) -> list[Tracker]:
        """Those of the caller, and those that the config asks for; of several processes only the first has any."""
        if not self.group.first:
            return []
        return [*self.trackers, *folder_trackers(self.config, self.folder.path, self.folder.tensorboard)]

    @contextmanager
    def told(self, listeners: Sequence[Tracker]) -> Iterator[Trackers]:
        """Within, the listeners are told of everything; a folder of a bucket is brought up as it grows."""
        if not self.group.first:
            yield Trackers([])
            return
        with uploading(self.folder.path) as uploader:
            trackers = Trackers([*listeners, *uploader])
            try:
                yield trackers
            finally:
                trackers.close()

    @contextmanager
    def locked(self) -> Iterator[None]:
        """The first process keeps all others but those of its group from training in the folder."""
        lock = self.folder.lock() if self.group.first else None
        try:
            yield
        finally:
            if lock is not None:
                lock.release()


def run_experiment(
    config: Config,
    trackers: Sequence[Tracker] = (),
    progress: Progress | None = None,
    command: Sequence[str] = (),
    resume: bool = False,
    test: bool = True,
    should_stop: Callable[[], bool] = never,
) -> Run:
    """`cnnlab train`: everything from one config. Nothing is written before the config, data and model are sound.

    In one of several processes (`cnnlab.processes`, torchrun) it is this one's part of the run, and only that of the
    first gives test metrics.

    Args:
        resume: go on where run.dir holds a run of this config, so that the same command may be given again.
        test: False ends after the training, and a resume would test.
        should_stop: asked after each step; where it says yes, the state is saved and `Interrupted` raised.
    """
    config = with_whole_addresses(config)
    with joined(config.trainer.device) as group:
        if resume and group.from_first(lambda: has_begun(config)):
            with opened_run(str(config.run.dir), whole=True) as begun:
                session = Session(config, RunFolder(begun), group, trackers, test=test, should_stop=should_stop)
                return _resume(session, progress, True, data_root=config.data.root)[0]
        config = group.from_first(lambda: for_group(config, group))
        folder = begin_run(config)
        if group.restarted and group.from_first(folder.config.exists):
            session = Session(config, folder, group, trackers, test=test, should_stop=should_stop)
            return _resume(session, progress, True)[0]
        if group.first:
            folder.refuse_if_taken()
        prepare_process(config.trainer, threads_of(config.trainer, group))
        device = device_of(config.trainer.device, group)
        import_code(config)  # the user's own word names it, and the model
        data = build_data(config, device, progress or _silent, processes=group.local_size)
        model = build_model(config, data, trust_code=True)  # the user's own word names it
        drawn = config.init.source is None and config.model["name"] != "pretrained" and not config.init.whiten
        if group.first and drawn and config.init.freeze not in ("none", 0):
            Trackers(trackers).log(Noted("what init.freeze keeps are random weights: there is no init.from.", True))
        return Session(config, folder, group, trackers, test=test, should_stop=should_stop).begin(data, model, command)


def _silent(done: int, total: int) -> None:
    """No progress is shown."""


def for_group(config: Config, group: Group) -> Config:
    """The config with as many processes as there are.

    Raises:
        ConfigError: another number was asked for, what several processes cannot do, or a run folder without a name.
    """
    devices = config.trainer.devices
    if group.size > 1 and devices not in (1, group.size):
        raise ConfigError(f"trainer.devices={devices}, and {group.size} processes were started; leave it out.")
    if group.size == 1 and devices > 1:
        raise ConfigError(
            f"trainer.devices={devices} processes are started by the command line alone: cnnlab train"
            f" trainer.devices={devices}."
        )
    if group.size > 1 and not (config.run.dir or config.run.name):
        raise ConfigError("several processes must agree on the run folder; name it: run.dir=runs/mine.")
    return dataclasses.replace(config, trainer=dataclasses.replace(config.trainer, devices=group.size))


def try_experiment(config: Config, progress: Progress, validates: bool = False) -> int:
    """Raise what `run_experiment` would raise before its first step, and decode the images; no folder is touched.

    Args:
        validates: raise ConfigError where there is no validation split.

    Returns:
        The number of test images.
    """
    prepare_process(config.trainer)
    import_code(config)
    data = build_data(with_whole_addresses(config), device_of(config.trainer.device, ALONE), progress)
    if validates and not data.val.count:
        raise ConfigError(
            "a search compares on the validation split, which is empty; raise data.val_fraction (the test split"
            " must not be used to choose)."
        )
    build_model(config, data, trust_code=True)
    return data.test.count


def resume_experiment(
    path: str | Path,
    trackers: Sequence[Tracker] = (),
    progress: Progress | None = None,
    trust_code: bool = False,
    test: bool = True,
    overrides: Sequence[str] = (),
    data_root: str | None = None,
    fetch: bool = False,
    should_stop: Callable[[], bool] = never,
) -> tuple[Run, bool]:
    """`cnnlab resume`: go on as if the run had never stopped, or with another learning rate.

    Args:
        overrides: such as ["optimizer.lr=0.01"], from here on; config.yaml then says so (see `config.RESUMABLE`).
        trust_code: import the module of a model of the user's own that the run folder names.
        test, should_stop: see `run_experiment`.
        data_root: where the same images are now; the run keeps it. None: where they were.
        fetch: the run came from a bucket, so that its set may have to be downloaded to this machine. In a run folder of
            this machine the images must be there.

    Returns:
        The run, and whether anything was left to do.

    Raises:
        RunError: no run there, or images that are not those it began with.
    """
    fetch = fetch or is_address(path)
    with opened_run(path, whole=True) as place:
        folder = RunFolder(place)
        config = read_config(folder)
        if data_root is not None:
            refuse_root(config.data.name, data_root)
        if not fetch and (data_root is not None or not folder.report.exists()):
            check_root(dataclasses.replace(config.data, root=data_root or config.data.root), folder.path)
        with joined(config.trainer.device) as group:
            session = Session(config, folder, group, trackers, test=test, should_stop=should_stop)
            return _resume(session, progress, trust_code, overrides, data_root, fetch)


def _resume(
    session: Session,
    progress: Progress | None,
    trust_code: bool,
    overrides: Sequence[str] = (),
    data_root: str | None = None,
    fetch: bool = True,
) -> tuple[Run, bool]:
    """See `resume_experiment`; without `fetch` nothing is downloaded from a publisher. The config is the folder's."""
    folder, group = session.folder, session.group
    with session.locked():
        before = config = group.from_first(lambda: read_config(folder))
        config = with_changes(config, overrides)
        if data_root is not None and has_root(config.data.name):
            config = dataclasses.replace(config, data=dataclasses.replace(config.data, root=whole_address(data_root)))
        changed = config
        config = dataclasses.replace(config, trainer=dataclasses.replace(config.trainer, devices=group.size))
        if group.from_first(folder.report.exists):
            if overrides:
                raise finished(folder, overrides)
            if group.first:
                publish(folder.path)
            return Run(folder.path, folder.history(), folder.test_metrics()), False
        if group.first and not folder.state.exists():
            raise RunError(
                f"{folder.state} is missing, and with it the weights of this run; restore it from a copy, or start anew"
                " in another folder."
            )
        threads = threads_of(config.trainer, group)
        machine = group.from_first(lambda: read_environment(folder).get("machine") or {})
        if machine.get("processes", 1) == group.size:
            threads = machine.get("threads")
        prepare_process(config.trainer, threads)
        device = device_of(config.trainer.device, group)
        sources = config if fetch or is_remote(config.data.root) else without_download(config)
        if trust_code:
            import_code(config)
        data = build_data(sources, device, progress or _silent, processes=group.local_size)
        if data.manifest["sha256"] != group.from_first(lambda: read_split(folder)["sha256"]):
            raise RunError(
                f"the images are not those that {folder.path} began with: some were changed, added or removed."
                " Restore them, or start a new run."
            )
        session = dataclasses.replace(session, config=config)
        return session.resume(data, trust_code, changed if changed != before else None), True


def finished(folder: RunFolder, overrides: Sequence[str]) -> RunError:
    return RunError(f"{folder.path} is finished; for {' '.join(overrides)} start a new run.")


def without_download(config: Config) -> Config:
    """The config for images that must be on this machine already."""
    return dataclasses.replace(config, data=dataclasses.replace(config.data, download=False))

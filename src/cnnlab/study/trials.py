"""The trials of a search: what Optuna chose, how each ended, and what is tried next.

What trial n tries is a function of the seed, n, and the trials that ended before it was chosen: killed at any moment
and called again, a search that runs one trial at a time goes on as if it had never stopped.
"""

from __future__ import annotations

import collections
import dataclasses
import hashlib
import json
import math
import types
from collections.abc import Iterable, Mapping
from typing import Any

from cnnlab.errors import CnnlabError, RunError
from cnnlab.runs.files import separate
from cnnlab.runs.folder import RunFolder
from cnnlab.study.definition import AxisValue, Definition
from cnnlab.study.execute import ATTEMPTS, is_done
from cnnlab.study.plan import Combination, PlannedRun, merge_overrides, plan_trial
from cnnlab.study.progress import StudyProgress
from cnnlab.study.search_results import Search, TrialResult, judged_by, objective
from cnnlab.study.space import Range
from cnnlab.study.worker import RunProgress, RunResult
from cnnlab.study.worker_pool import Outcome
from cnnlab.tracking.console import percent
from cnnlab.training.reproduce import mix

DATABASE = "search.db"
LEFT_ALONE = 1 / 3  # of a trial's epochs, and the first in any case: few nets show so early what they come to


def corner(definition: Definition, last: bool) -> Combination:
    """The combination of all lowest and first values, or of all highest and last ones."""
    chosen: dict[str, Any] = {}
    for key, space in definition.search.items():
        if isinstance(space, Range):
            chosen[key] = space.high if last else space.low
        else:
            chosen[key] = space[-1 if last else 0].label
    return combination(definition, chosen)


def combination(definition: Definition, chosen: Mapping[str, Any], number: int | None = None) -> Combination:
    """What a trial tries, from the values that Optuna chose: numbers, and labels of choices."""
    axis_values: dict[str, str] = {}
    overrides: list[tuple[str, ...]] = []
    named = [] if number is None else [f"trial {number}"]
    for key, space in definition.search.items():
        if isinstance(space, Range):
            value = AxisValue(space.text(chosen[key]), (f"{key}={space.text(chosen[key])}",))
        else:
            value = next(one for one in space if one.label == chosen[key])
        axis_values[key] = value.label
        overrides.append(value.overrides)
        plain = value.overrides == (f"{key}={value.label}",)
        named.append(f"{key.split('.')[-1]}={value.label}" if plain else value.label)
    return Combination(", ".join(named), axis_values, merge_overrides(definition.overrides, *overrides))


class Trials:
    """The source of the runs: asks Optuna for each, reports every epoch, and tells how it ended."""

    def __init__(
        self, definition: Definition, optuna: types.ModuleType, base: str, view: StudyProgress | None = None
    ) -> None:
        self.definition, self.optuna, self.view = definition, optuna, view
        self.plans: dict[int, PlannedRun] = {}
        url = f"sqlite:///{(definition.folder / DATABASE).as_posix()}"
        for file in definition.folder.glob(f"{DATABASE}*"):
            separate(file)
        try:
            self.storage = optuna.storages.RDBStorage(url)
            self.study = optuna.create_study(
                storage=self.storage,
                study_name=f"search {fingerprint(definition, base)}",
                direction="maximize",
                load_if_exists=True,
                pruner=optuna.pruners.MedianPruner(n_startup_trials=5, n_warmup_steps=0),
            )
            self.runs()  # whatever the file holds is read once
        except CnnlabError:
            raise
        except Exception as error:  # Optuna, SQLAlchemy and SQLite have classes of their own
            reason = " ".join(str(error).split())[:100] or type(error).__name__
            file = definition.folder / DATABASE
            raise RunError(
                f"{file} is damaged ({reason}); restore it from a copy, or delete it to begin anew."
            ) from None
        self.running: dict[str, list[Any]] = {}  # trials of the run in progress, by its hash: twins after the first
        self.reported: dict[int, set[int]] = {}  # by trial: epochs that Optuna knows
        self.pruned: dict[str, int] = {}  # by hash: epoch
        self.attempts: collections.Counter[str] = collections.Counter()
        self.last: PlannedRun | None = None  # the best one, once it is to be tested
        self.why = ""  # the test could not be done
        states = optuna.trial.TrialState
        self.finished_states = (states.COMPLETE, states.PRUNED, states.FAIL)
        self.cut_off = collections.deque(self.study.get_trials(deepcopy=False, states=(states.RUNNING,)))

    # ---- what is known

    def records(self) -> list[Any]:
        """Optuna's trials, in order, but one that was killed before all of its values were chosen."""
        known = set(self.definition.search)
        return [trial for trial in self.study.get_trials(deepcopy=False) if known <= set(trial.params)]

    @property
    def ended(self) -> int:
        return sum(trial.state in self.finished_states for trial in self.records())

    @property
    def left(self) -> int:
        """Trials that are to be begun or gone on with."""
        return max(0, self.definition.trials - self.ended)

    @property
    def tested(self) -> bool:
        best = self.best()
        return best is not None and is_done(best)

    def best(self) -> PlannedRun | None:
        """The trial with the highest metric, the first of several."""
        complete = [t for t in self.records() if t.state == self.optuna.trial.TrialState.COMPLETE]
        return self._plan(max(complete, key=lambda t: (t.value, -t.number))) if complete else None

    def runs(self) -> list[PlannedRun]:
        return list({run.hash: run for run in map(self._plan, self.records())}.values())

    def _plan(self, trial: Any) -> PlannedRun:
        if trial.number not in self.plans:
            run = plan_trial(self.definition, combination(self.definition, trial.params, trial.number))
            # What another trial has tried is not tried again: the first of them has the folder.
            same = next((one for one in self.plans.values() if one.hash == run.hash), None)
            folder = same.folder if same else self._folder(run)
            self.plans[trial.number] = dataclasses.replace(run, folder=folder)
        return self.plans[trial.number]

    def _folder(self, run: PlannedRun) -> Any:
        """Another search of this study, with other ranges, can have come to the same settings."""
        return next(iter(sorted(run.folder.parent.glob(f"*-{run.hash[:8]}"))), run.folder)

    def result(self) -> Search:
        best = self.best()
        tried = [self._tried(trial) for trial in self.records()]
        found = next((one for one in tried if best is not None and one.run.hash == best.hash), None)
        return Search(self.definition, self.definition.folder, tried, found, self._importances(), self.why)

    def _tried(self, trial: Any) -> TrialResult:
        states = self.optuna.trial.TrialState
        names = {states.COMPLETE: "done", states.PRUNED: "pruned", states.FAIL: "failed"}
        state = trial.user_attrs.get("ended", names.get(trial.state, "not finished"))
        value = trial.value if trial.state == states.COMPLETE else None
        curve = sorted(trial.intermediate_values.items())
        return TrialResult(trial.number, self._plan(trial), state, value, curve, trial.user_attrs.get("why", ""))

    def _importances(self) -> dict[str, float]:
        """fANOVA (Hutter et al. 2014): the share of the variance that each key explains alone."""
        complete = [t for t in self.records() if t.state == self.optuna.trial.TrialState.COMPLETE]
        if len(complete) < 4 or len({t.value for t in complete}) < 2:
            return {}
        evaluator = self.optuna.importance.FanovaImportanceEvaluator(seed=self.definition.seed)
        found = self.optuna.importance.get_param_importances(self.study, evaluator=evaluator)
        return {key: float(value) for key, value in found.items()}

    # ---- as the source of runs, see worker_pool.RunSource

    def next_run(self, busy: Iterable[Any]) -> PlannedRun | None:
        while (trial := self._ask()) is not None:
            run = self._plan(trial)
            if run.hash in self.running:
                self.running[run.hash].append(trial)
                continue
            if (before := self._same(trial, run)) is not None:
                self._repeat(trial, before)
                continue
            self.running[run.hash] = [trial]
            if self._was_pruned(run):
                self._tell(run, pruned=True)
                continue
            return run
        best = self.best()
        if self.running or list(busy) or best is None or self.last is not None or is_done(best):
            return None
        self.last = dataclasses.replace(best, trial=False)
        return self.last

    def _ask(self) -> Any:
        """A trial that was cut off, or a new one; None where there are enough."""
        if self.ended + sum(map(len, self.running.values())) >= self.definition.trials:
            return None
        if self.cut_off:
            frozen = self.cut_off.popleft()
            self.reported[frozen.number] = set(frozen.intermediate_values)
            return self.choose(frozen.number)
        return self.choose(len(self.study.get_trials(deepcopy=False)))

    def choose(self, number: int, keys: Iterable[str] | None = None) -> Any:
        """Let Optuna choose what a trial tries, or what it has not chosen yet of one that was cut off.

        Args:
            keys: those that are chosen; None: all.
        """
        seed = mix(self.definition.seed, number)
        self._reseed(seed)
        if number == len(self.study.get_trials(deepcopy=False)):
            trial = self.study.ask()
        else:
            study = self.storage.get_study_id_from_name(self.study.study_name)
            known = self.storage.get_trial_id_from_study_id_trial_number(study, number)
            trial = self.optuna.trial.Trial(self.study, known)
        for place, key in enumerate(self.definition.search if keys is None else keys, 1):
            self._reseed(mix(seed, place))
            suggest(trial, key, self.definition.search[key])
        return trial

    def _reseed(self, seed: int) -> None:
        """A sampler of its own for each value, so that a search that was cut off, between two values of a trial even,
        chooses as an unbroken one does."""
        self.study.sampler = self.optuna.samplers.TPESampler(seed=seed % 2**32)

    def _same(self, trial: Any, run: PlannedRun) -> Any:
        """A trial that tried the same before and ended."""
        for other in self.records():
            if (
                other.number != trial.number
                and other.state in self.finished_states
                and self._plan(other).hash == run.hash
            ):
                return other
        return None

    def _repeat(self, trial: Any, before: Any) -> None:
        """Tell what the same settings came to before; they would come to it again."""
        for epoch, value in before.intermediate_values.items():
            trial.report(value, epoch)
        trial.set_user_attr("why", f"the same as trial {before.number}")
        if "ended" in before.user_attrs:
            trial.set_user_attr("ended", before.user_attrs["ended"])
        complete = before.state == self.optuna.trial.TrialState.COMPLETE
        self.study.tell(trial, before.value if complete else None, state=before.state)

    def _was_pruned(self, run: PlannedRun) -> bool:
        """Report the epochs that were trained before this call and that Optuna may not know."""
        return any(self._prunes(run, row) for row in RunFolder(run.folder).history())

    def on_epoch(self, run: PlannedRun, progress: RunProgress) -> bool:
        if progress.row is None or run.hash not in self.running or run.hash in self.pruned:
            return True
        return not self._prunes(run, progress.row)

    def _prunes(self, run: PlannedRun, row: Mapping[str, Any]) -> bool:
        """Report an epoch; whether the trial is to stop there."""
        trial, epoch, epochs = self.running[run.hash][0], row["epoch"], run.config.trainer.epochs
        known = self.reported.setdefault(trial.number, set())
        if epoch not in known:
            known.add(epoch)
            trial.report(objective(row), epoch)
        if not self.definition.prune or epoch >= epochs or epoch < max(2, LEFT_ALONE * epochs):
            return False
        if trial.should_prune():
            self.pruned[run.hash] = epoch
            return True
        return False

    def on_done(self, run: PlannedRun) -> Outcome:
        if not run.trial:
            test = RunFolder(run.folder).test_metrics()
            metric = test[judged_by(test)] if test else None
            return Outcome(f"tested: {percent(metric)}" if test else "no test split", counts=False)
        if run.hash in self.pruned:  # its last epochs were done before it heard of it
            return self._stopped(run)
        value = objective(RunFolder(run.folder).read_card())
        self._tell(run, value=value)
        if self.view is not None:
            self.view.aside = f"best {percent(self.study.best_value)}, trial {self.study.best_trial.number}"
        return Outcome(percent(value))

    def retry(self, run: PlannedRun) -> bool:
        """The run's trial stays open, and `next_run` gives it once more."""
        self.attempts[run.hash] += 1
        if self.attempts[run.hash] >= ATTEMPTS:
            return False
        if not run.trial:
            self.last = None
            return True
        if run.hash in self.pruned:
            return False
        states = self.optuna.trial.TrialState
        again = {trial.number for trial in self.running.pop(run.hash)}
        open_ones = self.study.get_trials(deepcopy=False, states=(states.RUNNING,))
        self.cut_off.extendleft(trial for trial in reversed(open_ones) if trial.number in again)
        return True

    def on_failed(self, run: PlannedRun, result: RunResult) -> Outcome:
        message = f"{result.status}: {result.message}"
        if not run.trial:
            self.why = result.message or result.status
            return Outcome(message, counts=False, ok=False)
        if run.hash in self.pruned:
            return self._stopped(run)
        # A rate that diverges is bad, which the sampler should know: of a failed trial it learns nothing.
        diverged = result.status == "diverged"
        self._tell(
            run, pruned=diverged, ended="diverged" if diverged else "failed", why=result.message or result.status
        )
        return Outcome(message, ok=False)

    def _stopped(self, run: PlannedRun) -> Outcome:
        self._tell(run, pruned=True)
        return Outcome(f"pruned at epoch {self.pruned[run.hash]} of {run.config.trainer.epochs}")

    def _tell(
        self, run: PlannedRun, value: float | None = None, pruned: bool = False, ended: str | None = None, why: str = ""
    ) -> None:
        """How the run ended, to each of its trials."""
        states = self.optuna.trial.TrialState
        first, *twins = self.running.pop(run.hash)
        if ended is not None:
            first.set_user_attr("ended", ended)
            first.set_user_attr("why", why)
        state = states.PRUNED if pruned else states.FAIL if value is None else states.COMPLETE
        self.study.tell(first, value, state=state)
        before = next(trial for trial in self.records() if trial.number == first.number)
        for trial in twins:
            self._repeat(trial, before)


def suggest(trial: Any, key: str, space: Range | tuple[AxisValue, ...]) -> None:
    """Let Optuna choose the value of a key, or keep the one it has chosen before."""
    if not isinstance(space, Range):
        trial.suggest_categorical(key, [value.label for value in space])
        return
    # The highest number that the steps reach, as Optuna would set it with a warning.
    steps = math.floor((space.high - space.low) / space.step * (1 + 1e-12)) if space.step else 0
    high = space.low + steps * space.step if space.step else space.high
    if space.whole:
        trial.suggest_int(key, int(space.low), int(high), step=int(space.step or 1), log=space.log)
    else:
        trial.suggest_float(key, space.low, high, step=space.step, log=space.log)


def fingerprint(definition: Definition, base: str) -> str:
    """Of what a search chooses from, and of all that its trials share: another one is another search."""
    space = {key: _written(value) for key, value in definition.search.items()}
    said = [base, space, definition.seed, definition.prune]
    return hashlib.sha256(json.dumps(said, sort_keys=True).encode()).hexdigest()[:12]


def _written(space: Range | tuple[AxisValue, ...]) -> str:
    """As search.db of every version has it: names of this code may change, and its searches still go on."""
    if isinstance(space, Range):
        return repr(space)
    values = [f"Value(label={value.label!r}, words={value.overrides!r})" for value in space]
    return f"({', '.join(values)}{',' * (len(values) == 1)})"

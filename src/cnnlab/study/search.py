"""A search: trials of settings that Optuna chooses, judged on the validation split, the bad ones stopped early.

The test split takes no part in it: no trial is tested but the best one, once, when all trials are done. What Optuna
knows lies in search.db of the study's folder.
"""

from __future__ import annotations

import shlex
import types
from collections.abc import Sequence

from cnnlab.errors import ConfigError, Interrupted
from cnnlab.runs.files import refuse_links, write_whole
from cnnlab.study.definition import define
from cnnlab.study.execute import run_all
from cnnlab.study.plan import plan_trial
from cnnlab.study.progress import StudyProgress
from cnnlab.study.search_page import render
from cnnlab.study.search_results import Search, as_csv, markdown, spaces
from cnnlab.study.study import describe, lock_study
from cnnlab.study.trials import DATABASE, Trials, corner


def run_search(
    *words: str,
    progress: StudyProgress | None = None,
    command: Sequence[str] = (),
    config_dir: str | None = None,
    trust_code: bool = False,
) -> Search:
    """Run the trials that a search still lacks, test the best, and write results.csv, table.md and report.html.

    Args:
        words: as on the command line, such as "optimizer.lr=0.001..1:log", "augment=none,light", "study.trials=20".
        progress: what a person sees meanwhile; None: nothing.
        command: what was called, for the report.
        config_dir: folder of your own options, recipes and experiments; None: ./conf where there is one.
        trust_code: let files name code to run; else only the command line may.

    Raises:
        ConfigError: an unknown key or value, a range that is none, no validation split, Optuna is not installed, or no
            trial could be done.
        RunError: another process runs this study, or its folder cannot be written.
        Interrupted: Ctrl-C; results are written as far as they are.
    """
    definition = define(words, config_dir=config_dir, trust_code=trust_code)
    if not definition.search:
        raise ConfigError("this is a grid and no search; give a range, as in optimizer.lr=0.001..1:log.")
    corners = [plan_trial(definition, corner(definition, last)) for last in (False, True)]
    optuna = import_optuna()
    lock = lock_study(definition.folder)
    try:
        view = progress or StudyProgress(silent=True)
        trials = Trials(definition, optuna, corners[0].hash, view)
        epochs = corners[0].config.trainer.epochs
        view.expect(definition.trials, trials.ended, trials.left * epochs, "trial")
        said = command or ("cnnlab", "study", *words)
        if trials.left or not trials.tested:
            to_check = [] if trials.records() else corners  # a search that has begun before is known to start
            try:
                run_all(trials, to_check, definition, max(1, trials.left), view)
            except Interrupted:
                if trials.best() is not None:
                    write_search(trials.result(), describe(trials.runs()), said)
                raise
        result = trials.result()
        if result.best is None:
            bad = next((one for one in result.trials if one.why), None)
            raise ConfigError(f"none of the trials has a result; {bad.run.name}: {bad.why}" if bad else "no trial.")
        write_search(result, describe(trials.runs()), said)
        return result
    finally:
        lock.release()


def outline(words: Sequence[str], config_dir: str | None = None, trust_code: bool = False) -> list[str]:
    """What a search would do, a line each, without doing it."""
    definition = define(words, config_dir=config_dir, trust_code=trust_code)
    corner_runs = [plan_trial(definition, corner(definition, last)) for last in (False, True)]
    lines = [f"{key:<24} {space}" for key, space in spaces(definition)]
    ended = 0
    refuse_links(definition.folder)
    if (definition.folder / DATABASE).exists():
        ended = Trials(definition, import_optuna(), corner_runs[0].hash).ended
    return [*lines, f"{definition.trials} trials, {ended} of them done"]


def write_search(search: Search, facts: Sequence[tuple[str, str]], command: Sequence[str]) -> None:
    """results.csv, table.md and report.html."""
    command_line = shlex.join(command)
    write_whole(search.dir / "results.csv", as_csv(search))
    write_whole(search.dir / "table.md", markdown(search, facts, command_line))
    write_whole(search.dir / "report.html", render(search, facts, command_line))


def import_optuna() -> types.ModuleType:
    try:
        import optuna
    except ImportError:
        raise ConfigError("a search needs Optuna; install it with: pip install 'cnnlab[study]'") from None
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    return optuna

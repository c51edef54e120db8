"""The command line: parses and dispatches, nothing else. Nothing heavy is imported before a command needs it."""

from __future__ import annotations

import argparse
import atexit
import contextlib
import dataclasses
import gc
import os
import shlex
import signal
import sys
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn, TextIO

from cnnlab import streams
from cnnlab.errors import CnnlabError, ConfigError, DataError, Interrupted, ModelError, nearest, one_line, refused
from cnnlab.signals import CtrlC
from cnnlab.values import to_json

if TYPE_CHECKING:
    from cnnlab.config import Composed
    from cnnlab.data.recommend import Recommended
    from cnnlab.deploy.predictor import Prediction, Predictor
    from cnnlab.experiment import Run

EXAMPLES = {
    "train": """examples:
  cnnlab train                                              digits, in seconds
  cnnlab train data=mnist data.root=data                    downloads MNIST if it is not there
  cnnlab train data=folder data.root=photos                 your own photographs, a folder per class
  cnnlab train data=cifar10 optimizer=adamw optimizer.lr=0.003 augment=strong run.dir=runs/mine
  cnnlab train data=folder data.root=photos init.from=runs/mine init.freeze=backbone
  cnnlab train data=mnist model=mymodels:Tiny               a class of your own, from mymodels.py
  cnnlab train experiment=first                             settings of your own, from conf/experiment/first.yaml
  cnnlab train --config runs/mine/config.yaml seed=1        those of a run, with another seed
  cnnlab train data=cifar10 --explain                       where each value comes from; --options: what each key means
  cnnlab train data=mydata:Photos data.root=photos          a torch Dataset of your own, from mydata.py
  cnnlab train data=folder data.root=photos data.folds=5    cross-validation, then one network on all
  cnnlab train data=cifar10 trainer.devices=4               four processes, or GPUs, share every batch
  cnnlab train data=folder data.root=gs://bucket/photos run.dir=gs://bucket/runs/mine
  cnnlab train run.dir=gs://bucket/runs/mine --spec vertex --image IMAGE --accelerator NVIDIA_L4 > job.yaml""",
    "resume": """examples:
  cnnlab resume runs/mine
  cnnlab resume runs/mine optimizer.lr=0.01                 at a lower learning rate, where the loss was not finite
  cnnlab resume runs/mine --devices 1                       in another number of processes than it began with
  cnnlab resume gs://bucket/runs/mine                       on any machine
  cnnlab resume gs://bucket/runs/mine --spec vertex --image IMAGE > job.yaml""",
    "test": """examples:
  cnnlab test runs/mine
  cnnlab test runs/mine --split val
  cnnlab test runs/mine --data-root other-photos            another set with the same classes
  cnnlab test runs/mnist --data mnist_m data.backgrounds=photos""",
    "predict": """examples:
  cnnlab predict runs/mine cat.jpg photos/
  cnnlab predict runs/mine cat.jpg --topk 3 --json
  cnnlab predict runs/mine photos/ --out answers.csv
  cnnlab predict runs/mine photos/ --sort sorted            sorted/cat/…, sorted/dog/…: copies, a folder per class
  cat cat.jpg | cnnlab predict runs/mine -
  cnnlab predict runs/mine/export/model-int8.onnx cat.jpg   an export instead of the run""",
    "explain": """examples:
  cnnlab explain runs/mine cat.jpg photos/
  cnnlab explain runs/mine cat.jpg --target dog             what speaks for another class
  cnnlab explain runs/mine cat.jpg --method layercam --layer stage2 --out maps""",
    "localize": """examples:
  cnnlab localize runs/digits page.png
  cnnlab localize runs/digits scans/ --out boxes --json""",
    "model": """examples:
  cnnlab model resnet depth=20
  cnnlab model vgg16 num_classes=10 image_size=[96,128] in_channels=1
  cnnlab model resnet depth=56 shortcut=B --json
  cnnlab model mymodels:Tiny width=8                        a class of your own, from mymodels.py
  cnnlab model --list""",
    "data": """examples:
  cnnlab data digits
  cnnlab data folder data.root=photos --check
  cnnlab data cifar10 augment=strong --show
  cnnlab data mydata:Photos data.root=photos                a torch Dataset of your own, from mydata.py""",
    "study": """examples:
  cnnlab study --list                                       the studies that come with cnnlab
  cnnlab study residual_depth --dry-run                     the runs it wants, and which of them are there
  cnnlab study model=resnet model.depth=8,14 model.residual=true,false --seeds 3
  cnnlab study optimizers data=mnist data.root=data study.jobs=2
  cnnlab study optimizer.lr=0.001..1:log augment=none,light study.trials=20     a search for the best settings
  cnnlab study learning_rate_range data=mnist               where the learning rate is good, in a minute
  cnnlab study mine.yaml                                    a study of your own""",
    "compare": "example:\n  cnnlab compare runs/a runs/b --out curves.png",
    "export": """examples:
  cnnlab export runs/mine                                   runs/mine/export/model.onnx
  cnnlab export runs/mine --int8                            a quarter of the size, calibrated on validation pictures
  cnnlab export runs/mine --format pt2 --out served         for torch.export.load
  cnnlab export runs/mine --format web                      a page that runs the network in a browser
  cnnlab predict runs/mine/export cat.jpg                   an export answers as its run does""",
    "demo": """examples:
  cnnlab demo runs/mine                                     http://127.0.0.1:8000
  cnnlab demo runs/mine --port 9000
  cnnlab demo runs/mine --host 0.0.0.0 --token secret       for others, who must know the token
  curl -F picture=@cat.jpg http://127.0.0.1:8000/predict
  cnnlab demo gs://bucket/runs/mine --spec cloudrun --image IMAGE > service.yaml""",
}


RUN = "run folder, gs://BUCKET/RUN, or wandb:ENTITY/PROJECT/ARTIFACT:ALIAS"
TRUST = "run the code of a model or a data set of your own that the run names (module:Class)"


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        self.exit(2, one_line(f"{self.prog}: {message}; see {self.prog} --help") + "\n")


def build_parser() -> argparse.ArgumentParser:
    parser = _Parser(
        prog="cnnlab",
        description="From a set of pictures to a trained and tested convolutional network, one command a step.",
        epilog="cnnlab COMMAND --help shows the command's options and examples. Start with: cnnlab train",
    )
    parser.add_argument("--version", action="store_true", help="print the version and exit")
    commands = parser.add_subparsers(dest="command", metavar="COMMAND")

    def add_spec(command: argparse.ArgumentParser, kind: str, what: str) -> None:
        group = command.add_argument_group("on Google Cloud (docs/gcp.md)")
        group.add_argument(
            "--spec", choices=[kind], help=f"print {what} that does this there, instead of doing it here"
        )
        group.add_argument("--image", help="address of the container image")
        group.add_argument("--service-account", metavar="EMAIL", help="account that it acts as there")
        if kind == "vertex":
            group.add_argument("--machine", metavar="TYPE", help="type of machine (default: one that fits)")
            group.add_argument("--accelerator", metavar="TYPE", help="such as NVIDIA_L4 (default: none)")
            group.add_argument("--spot", action="store_true", help="a machine that may be taken away, for less")
            group.add_argument("--disk", type=int, metavar="GB", help="default: 100")

    def add(name: str, summary: str) -> argparse.ArgumentParser:
        return commands.add_parser(
            name,
            help=summary,
            description=summary[0].upper() + summary[1:] + ".",
            epilog=EXAMPLES[name],
            formatter_class=argparse.RawDescriptionHelpFormatter,
        )

    def add_config_dir(command: argparse.ArgumentParser) -> None:
        what = "folder of your own options, recipes and experiments (default: ./conf where there is one)"
        command.add_argument("--config-dir", metavar="DIR", help=what)
        trust = "run code (module:Class) that those files or --config name; what you name yourself runs anyway"
        command.add_argument("--trust-code", action="store_true", help=trust)

    train = add("train", "train, validate every epoch, test once at the end")
    train.add_argument("overrides", nargs="*", default=[], metavar="KEY=VALUE", help="group=option or key=value")
    train.add_argument("--options", action="store_true", help="list every group and key with its meaning, and exit")
    train.add_argument("--explain", action="store_true", help="print the configuration and where each value is from")
    add_config_dir(train)
    train.add_argument("--config", metavar="FILE", help="begin with these settings, such as a run's config.yaml")
    train.add_argument("-m", "--multirun", action="store_true", help=argparse.SUPPRESS)  # of Hydra; see study
    train.add_argument("--resume", action="store_true", help="go on where run.dir already holds this run")
    add_spec(train, "vertex", "a custom job of Vertex AI")

    resume = add("resume", "go on with an interrupted run, as if it had never stopped")
    resume.add_argument("run", metavar="RUN", help=RUN)
    resume.add_argument(
        "overrides", nargs="*", default=[], metavar="KEY=VALUE", help="optimizer.lr or trainer.grad_clip, from here on"
    )
    resume.add_argument("--devices", type=int, metavar="N", help="processes (default: as many as it began with)")
    resume.add_argument(
        "--data-root", metavar="DIR", help="where the pictures are now, if not where they were; the run keeps it"
    )
    resume.add_argument("--trust-code", action="store_true", help=TRUST)
    add_spec(resume, "vertex", "a custom job of Vertex AI")

    test = add("test", "test the best weights of a run; writes test.json and predictions.csv")
    test.add_argument("run", metavar="RUN", help=RUN)
    test.add_argument(
        "overrides", nargs="*", default=[], metavar="KEY=VALUE", help="data.* keys of the set that --data names"
    )
    test.add_argument("--data", metavar="NAME", help="another set with the same classes, by name")
    test.add_argument("--split", default="test", choices=["test", "val", "train"], help="default: test")
    test.add_argument(
        "--data-root", metavar="DIR", help="where the pictures are now, or another set with the same classes"
    )
    test.add_argument("--device", default="auto", help="auto, cpu, cuda, cuda:N or mps")
    test.add_argument(
        "--views", metavar="KIND", help="average further views of each picture too: mirror, shift or mirror_shift"
    )
    test.add_argument("--trust-code", action="store_true", help=TRUST)

    predict = add("predict", "classify files, folders, or standard input")
    predict.add_argument("run", metavar="RUN", help=f"{RUN}; an export folder or .onnx file")
    predict.add_argument("paths", nargs="+", metavar="PATH", help="picture, folder, or - for standard input")
    predict.add_argument("--topk", type=int, metavar="K", help="classes to show a picture (default: 5)")
    predict.add_argument(
        "--out",
        metavar="FILE.csv",
        help="write the answers into a CSV file: path, label, probability, the next classes; of a model that"
        " classifies pixels: the folder for its masks (default: RUN/predict)",
    )
    predict.add_argument("--sort", metavar="DIR", help="copy each image into DIR/CLASS of the class it is given")
    predict.add_argument("--json", action="store_true", help="one JSON object a line")
    predict.add_argument("--device", default="auto", help="auto, cpu, cuda, cuda:N or mps")
    predict.add_argument("--trust-code", action="store_true", help=TRUST)

    explain = add("explain", "show where a run's model looks: activation maps over pictures")
    explain.add_argument("run", metavar="RUN", help=RUN)
    explain.add_argument("paths", nargs="+", metavar="PATH", help="picture or folder")
    explain.add_argument(
        "--method", choices=["cam", "gradcam", "layercam"], help="default: cam where the head allows it, else gradcam"
    )
    explain.add_argument("--target", metavar="CLASS", help="class to explain (default: the one that is predicted)")
    explain.add_argument("--layer", metavar="NAME", help="layer whose map is weighted (default: the last feature map)")
    explain.add_argument("--out", metavar="DIR", help="folder for the pictures (default: RUN/explain)")
    explain.add_argument("--device", default="auto", help="auto, cpu, cuda, cuda:N or mps")
    explain.add_argument("--trust-code", action="store_true", help=TRUST)

    localize = add("localize", "find objects on pictures of any size: heat map, boxes and classes")
    localize.add_argument("run", metavar="RUN", help=RUN)
    localize.add_argument("paths", nargs="+", metavar="PATH", help="picture or folder")
    localize.add_argument("--out", metavar="DIR", help="folder for pictures and JSON (default: RUN/localize)")
    localize.add_argument("--json", action="store_true", help="print one JSON object a picture")
    localize.add_argument("--trust-code", action="store_true", help=TRUST)

    model = add("model", "print a layer table: sizes with their arithmetic, parameters, multiply-adds, receptive field")
    model.add_argument("name", nargs="?", metavar="NAME", help="see --list, or package.module:Class for your own")
    model.add_argument(
        "overrides",
        nargs="*",
        default=[],
        metavar="KEY=VALUE",
        help="the constructor's arguments; image_size and in_channels",
    )
    model.add_argument("--list", action="store_true", help="list the models, a line each, and exit")
    model.add_argument("--json", action="store_true", help="print one JSON object instead")

    data = add("data", "print splits, class counts, sizes and statistics of a set")
    data.add_argument(
        "name",
        metavar="NAME",
        help="digits, mnist, fashion_mnist, cifar10, cifar100, caltech101 or folder; module:Class for your own",
    )
    data.add_argument("overrides", nargs="*", default=[], metavar="KEY=VALUE", help="data.* and augment keys, seed")
    data.add_argument(
        "--show", nargs="?", const="", metavar="FILE", help="write a labelled grid of one augmented batch"
    )
    data.add_argument("--check", action="store_true", help="find corrupt files, duplicates, and leaks between splits")
    data.add_argument("--json", action="store_true", help="print one JSON object instead")
    add_config_dir(data)

    study = add("study", "run a grid of settings times seeds: a table with error bars, curves, differences in words")
    study.add_argument(
        "overrides",
        nargs="*",
        metavar="NAME|key=value",
        help="a study or a YAML file of your own; key=a,b makes an axis, key=low..high a search; study.dir, study.jobs",
    )
    study.add_argument("--seeds", type=int, metavar="N", help="runs of each combination (default: what the study says)")
    study.add_argument("--list", action="store_true", help="name the studies that come with cnnlab")
    study.add_argument("--dry-run", action="store_true", help="show the runs, and train nothing")
    add_config_dir(study)

    compare = add("compare", "put runs side by side: a table and a picture of their curves")
    compare.add_argument("runs", nargs="+", metavar="RUN", help=RUN)
    compare.add_argument(
        "--out", default="compare.png", metavar="FILE", help="picture of the curves (default: compare.png)"
    )

    export = add("export", "write a run's model as a file for other programs, once it is shown to answer alike")
    export.add_argument("run", metavar="RUN", help=RUN)
    export.add_argument("--format", default="onnx", choices=["onnx", "pt2", "web"], help="default: onnx")
    export.add_argument("--int8", action="store_true", help="compute in 8 bits (onnx)")
    export.add_argument(
        "--fully-convolutional", action="store_true", help="answers at every place, pictures of any size"
    )
    export.add_argument("--out", metavar="DIR", help="folder for the file and export.json (default: RUN/export)")
    export.add_argument("--data-root", metavar="DIR", help="where the pictures to test on are now")
    export.add_argument("--trust-code", action="store_true", help=TRUST)

    demo = add("demo", "show a run to others: a web page and a JSON interface")
    demo.add_argument("run", metavar="RUN", help=RUN)
    demo.add_argument("--host", help="address to listen on (default: this machine alone)")
    demo.add_argument("--port", type=int, help="default: PORT of the environment, or 8000; 0 takes a free one")
    demo.add_argument(
        "--token", metavar="T", help="what every question must bring as its bearer token (default: CNNLAB_TOKEN)"
    )
    demo.add_argument("--trust-code", action="store_true", help=TRUST)
    add_spec(demo, "cloudrun", "a service of Cloud Run")
    demo.add_argument(
        "--secret",
        metavar="NAME",
        help="of the token in Secret Manager (default: cnnlab-token)",
    )
    return parser


def command_line() -> NoReturn:
    """`main` as a process of its own, which starts and ends without needless work.

    Importing torch makes a million objects that stay; looking for garbage among them took a fifth of that time. And at
    the end the system takes the memory back at once, where the interpreter would free each object of torch's first.
    """
    gc.set_threshold(50_000, 20, 50)
    # Threads that wait must not spin: beside other programs they hold the cores they wait for. Read when torch loads.
    os.environ.setdefault("OMP_WAIT_POLICY", "passive")
    code = main()
    if os.name == "posix":
        signal.signal(signal.SIGINT, lambda number, frame: os._exit(code or 130))
    try:
        for stream in (sys.stdout, sys.stderr):
            with contextlib.suppress(BrokenPipeError, ValueError):  # nobody reads on; closed
                stream.flush()
    except OSError as error:
        code = code or 1
        with contextlib.suppress(OSError):
            os.write(2, f"cnnlab: the output could not be written: {error}.\n".encode())
    atexit._run_exitfuncs()
    os._exit(code)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command and return its exit code: 0 done, 1 our failure, 2 the user's input, 130 interrupted."""
    words = list(sys.argv[1:] if arguments is None else arguments)
    streams.prepare()
    with CtrlC() as ctrl_c:
        try:
            return _dispatch(words)
        except (Exception, KeyboardInterrupt) as error:
            name = next((word for word in words if not word.startswith("-")), "")
            code, line = _ended_by(error, f"cnnlab {name}".rstrip(), ctrl_c.pressed)
            if line and os.environ.get("RANK", "0") == "0":  # several processes stop together
                print(line, file=sys.stderr)
            if code == 1:
                raise
            return code


def _dispatch(words: list[str]) -> int:
    """Parse, and do what is asked for; return the exit code. Raises what went wrong."""
    parser = build_parser()
    if words and not words[0].startswith("-") and words[0] not in EXAMPLES:
        hint = f" Did you mean: cnnlab train {words[0]}" if "=" in words[0] else nearest(words[0], EXAMPLES)
        parser.exit(2, one_line(f"cnnlab: unknown command {words[0]!r}.{hint}") + "\n")
    options, rest = parser.parse_known_args(words)
    if options.version:
        from cnnlab import __version__

        print(__version__)
        return 0
    if options.command is None and not rest:
        parser.print_help()
        return 0
    if options.command is None:
        parser.error(f"unknown argument {rest[0]!r}")
    if rest:
        overrides = getattr(options, "overrides", None)
        if overrides is None or any(word.startswith("-") for word in rest):
            hint = _as_key(rest[0], words) if overrides is not None else ""
            raise ConfigError(f"unknown argument {rest[0]!r}{hint}; see cnnlab {options.command} --help")
        overrides += rest
    command = {
        "train": _train,
        "resume": _resume,
        "test": _test,
        "predict": _predict,
        "explain": _explain,
        "localize": _localize,
        "model": _model,
        "data": _data,
        "study": _study,
        "compare": _compare,
        "export": _export,
        "demo": _demo,
    }
    warnings.filterwarnings("ignore", module=r"PIL\.")  # of a damaged picture one line says what matters
    command[options.command](options, words)
    return 0


def _ended_by(error: BaseException, name: str, pressed: bool) -> tuple[int, str]:
    """The exit code for what ended a command, and the line to print. 1: it is a failure of ours, to be raised.

    Args:
        name: of the command.
        pressed: Ctrl-C was; whatever it was turned into on its way here, it is what ended the command.
    """
    if isinstance(error, Interrupted):
        return error.exit_code, f"\n{error}"
    if pressed or isinstance(error, KeyboardInterrupt):
        return 130, "\nstopped."
    if isinstance(error, BrokenPipeError):
        return 0, ""
    wrong = error if isinstance(error, CnnlabError) else refused(error)
    return (1, "") if wrong is None else (wrong.exit_code, one_line(f"{name}: {wrong}"))


CLOUD = ("image", "service_account", "machine", "accelerator", "spot", "disk", "secret")  # what only --spec reads


def _as_key(option: str, words: Sequence[str]) -> str:
    """How a setting that was given as an option, such as --epochs 3, is written.

    Args:
        words: the whole command line.
    """
    if not option.startswith("--"):
        return ""
    from cnnlab.config import GROUPS, keys_like

    name, _, value = option.lstrip("-").partition("=")
    after = words[list(words).index(option) + 1 :][:1]
    value = value or next((word for word in after if not word.startswith("-")), "VALUE")
    keys = [name] if name in GROUPS else keys_like(name)
    return f"; settings are written without dashes, as {keys[0]}={value}" if keys else ""


def _refuse_ignored(options: argparse.Namespace, names: Sequence[str], why: str) -> None:
    """Raise ConfigError for the first of these options that was given: it would change nothing."""
    for name in names:
        value = getattr(options, name, None)
        if value is not None and value is not False and value != []:
            positional = name in ("name", "overrides")
            given = repr(value if isinstance(value, str) else value[0]) if positional else f"--{name.replace('_', '-')}"
            raise ConfigError(f"{given} {why}; leave one of them out.")


def _train(options: argparse.Namespace, words: Sequence[str]) -> None:
    from cnnlab import config

    if options.multirun:
        again = shlex.join(["cnnlab", "study", *options.overrides])
        raise ConfigError(f"several runs, with a table of their differences, are a study; say: {again}")
    for shows in ("options", "explain"):
        if getattr(options, shows):
            _refuse_ignored(options, ("resume", "spec", *CLOUD), f"is for a training, and --{shows} only shows")
    if options.options:
        print(_options_text(options))
        return
    if not options.spec:
        _refuse_ignored(options, CLOUD, "is read with --spec vertex alone, which is not there")
    if options.spec:
        from cnnlab.deploy.spec import check_train

        composed = config.resolve(options.overrides, options.config_dir, options.config, trust_code=options.trust_code)
        if composed.paths:
            raise ConfigError(f"the job cannot see {composed.paths[0]}; give its options and keys themselves.")
        check_train(composed.config)
        _print_job(options, ["cnnlab", "train", *options.overrides, "--resume"])
        return
    if options.explain:
        from cnnlab.config.describe import explain_text

        print(explain_text(_resolve_to_show(options)))
        return
    from cnnlab.data.recommend import resolve_for_set
    from cnnlab.runs.source import network_of

    given = options.overrides, options.config_dir, options.config, options.trust_code
    composed, recommended = resolve_for_set(*given, network_of=network_of)
    settings = composed.config
    from cnnlab.tracking.console import ConsoleTracker, DecodeBar

    with DecodeBar() as bar:
        from cnnlab.experiment import run_experiment
        from cnnlab.training.distributed import speaks, wants_several

        if recommended and speaks():
            _print_recommended(recommended)
        if wants_several(settings.trainer.devices):
            from cnnlab.processes import train_together

            run = train_together(settings, bar.update, ["cnnlab", *words], options.resume)
        elif settings.data.folds:
            from cnnlab.folds import run_folds, text

            called = ["cnnlab", *words]
            run, found = run_folds(settings, lambda: [ConsoleTracker()], bar.update, called, options.resume)
            print(f"\n{text(found)}")
        else:
            run = run_experiment(settings, [ConsoleTracker()], bar.update, ["cnnlab", *words], options.resume)
    if speaks():
        _print_run(run)


def _print_recommended(recommended: Sequence[Recommended]) -> None:
    """What follows from the set, and why."""
    from cnnlab.tracking.console import plain_console

    console = plain_console()
    console.print("settings that follow from the set; your own key=value overrules each:")
    width = max(len(one.word) for one in recommended)
    for one in recommended:
        console.print(f"  {one.word:<{width}}  {one.reason}")


def _print_job(options: argparse.Namespace, command: list[str]) -> None:
    from cnnlab.deploy.spec import as_yaml, vertex_job

    disk = 100 if options.disk is None else options.disk
    machine = options.machine, options.accelerator, options.spot, options.service_account, disk
    use = "gcloud ai custom-jobs create --region REGION --display-name NAME --config THIS_FILE"
    print(as_yaml(vertex_job(command, options.image, *machine), use), end="")


def _resume(options: argparse.Namespace, words: Sequence[str]) -> None:
    if options.devices is not None and options.devices < 1:
        raise ConfigError(f"--devices must be at least 1, got {options.devices}.")
    if options.spec:
        from cnnlab.remote import is_remote

        if options.data_root is not None and not is_remote(options.data_root):
            raise ConfigError(f"a job cannot see {options.data_root}; copy the pictures into a bucket and name that.")
        if not is_remote(options.run):
            raise ConfigError(f"a job cannot see {options.run}; give the run's address in a bucket.")
        more = [*options.overrides, *(["--trust-code"] if options.trust_code else [])]
        more += [] if options.devices is None else ["--devices", str(options.devices)]
        more += [] if options.data_root is None else ["--data-root", options.data_root]
        _print_job(options, ["cnnlab", "resume", options.run, *more])
        return
    _refuse_ignored(options, CLOUD, "is read with --spec vertex alone, which is not there")
    from cnnlab.tracking.console import ConsoleTracker, DecodeBar

    with DecodeBar() as bar:
        from cnnlab.experiment import resume_experiment
        from cnnlab.runs.folder import open_folder, read_config
        from cnnlab.training.distributed import speaks, wants_several

        devices = options.devices or read_config(open_folder(options.run)).trainer.devices
        if wants_several(devices):
            from cnnlab.processes import resume_together

            run, anything = resume_together(
                options.run, devices, options.trust_code, options.data_root, overrides=options.overrides
            )
        else:
            run, anything = resume_experiment(
                options.run,
                [ConsoleTracker()],
                bar.update,
                options.trust_code,
                data_root=options.data_root,
                overrides=options.overrides,
            )
    if not speaks():
        return
    if not anything:
        print("this run is finished; nothing was left to do.")
    _print_run(run)


def _print_run(run: Run) -> None:
    from cnnlab.evaluation.tables import print_whole, result_table
    from cnnlab.runs.folder import RunFolder
    from cnnlab.runs.remote import address_of

    print()
    print_whole(result_table(run.history, RunFolder(run.dir).read_card()["epoch"], run.test))
    print()
    if address := address_of(run.dir):
        _print_line(f"run         {address}")
    _print_line(f"run folder  {run.dir}")
    _print_line(f"report      {run.dir / 'report.html'}")


def _test(options: argparse.Namespace, words: Sequence[str]) -> None:
    from cnnlab import config
    from cnnlab.evaluation.evaluate import evaluate

    keys = config.data_keys(options.overrides)
    figures = evaluate(
        options.run,
        options.split,
        options.data_root,
        options.device,
        options.trust_code,
        options.views,
        options.data,
        **keys,
    )
    from cnnlab.evaluation.tables import figures_text

    print(figures_text(figures))
    with contextlib.suppress(CnnlabError):  # the figures stand, whatever is wrong with the history
        if left := _epochs_left(options.run):
            print(
                f"\n{options.run} has {left} epochs to go: these are the figures of its best so far.", file=sys.stderr
            )


def _epochs_left(run: str) -> int:
    """How many epochs a run that has not ended is to train yet; 0 for one in a bucket, whose history is not here."""
    from cnnlab.runs.folder import RunFolder, read_config

    folder = RunFolder(Path(run))
    done = 0 if folder.report.exists() else len(folder.history())
    return read_config(folder).trainer.epochs - done if done else 0


def _predict(options: argparse.Namespace, words: Sequence[str]) -> None:
    from cnnlab.data.decode import find_pictures
    from cnnlab.deploy.exported import is_export
    from cnnlab.deploy.predictor import Predictor

    if options.topk is not None and options.topk < 1:
        raise ConfigError(f"--topk must be at least 1, got {options.topk}.")
    if not is_export(options.run) and _segments(options.run):
        _refuse_ignored(options, ("topk", "sort"), "is for classes of images, and this model classifies every pixel")
        _predict_pixels(options)
        return
    _check_predict_files(options)
    shown = 5 if options.topk is None else options.topk
    names = ["-"] if options.paths == ["-"] else list(find_pictures(options.paths))
    if is_export(options.run):
        predictor = Predictor.from_export(options.run, options.device)
    else:
        predictor = Predictor.from_run(options.run, options.device, options.trust_code)
    bad: list[str] = []
    kept: list[tuple[str, Prediction]] = []
    files = options.out or options.sort
    quiet = files and not options.json
    for first in range(0, len(names), 64):
        part = names[first : first + 64]
        pictures: list[Any] = [sys.stdin.buffer.read() if name == "-" else name for name in part]
        for name, answer in zip(part, _answers(predictor, pictures, bad), strict=True):
            if answer is None:
                continue
            ranked = list(answer.probabilities.items())[:shown]
            kept += [(name, dataclasses.replace(answer, probabilities=dict(ranked)))] if files else []
            if options.json:
                facts = {"picture": name, "label": answer.label, "probability": answer.probability}
                _print_json(facts | {"probabilities": dict(ranked)})
            elif not quiet:
                _print_line(f"{name}: " + "  ".join(f"{label} {100 * p:.1f} %" for label, p in ranked))
        if not quiet and not streams.has_reader():
            return
    if kept:
        _keep_answers(options, kept, sys.stderr if options.json else sys.stdout)
    if bad:
        done = f" The other {len(names) - len(bad):,} are done." if len(names) > len(bad) else ""
        raise DataError(" ".join(bad) + done)


def _check_predict_files(options: argparse.Namespace) -> None:
    """Refuse what --out and --sort cannot do before the first image is read."""
    if options.out is not None and not options.out.lower().endswith(".csv"):
        raise ConfigError(f"--out {options.out} must be a .csv file, such as --out answers.csv; it holds the answers.")
    if options.sort is not None and "-" in options.paths:
        raise ConfigError("--sort copies files, and standard input is none; give the image as a file.")
    if options.sort is not None:
        place = Path(options.sort).resolve()
        if around := [path for path in options.paths if Path(path).resolve() in (place, *place.parents)]:
            raise ConfigError(f"--sort {options.sort} is in {around[0]}, whose images are read; choose another folder.")
    if options.sort is not None and Path(options.sort).exists() and not Path(options.sort).is_dir():
        raise ConfigError(f"--sort {options.sort} is no folder; give the name of one, new or not.")


def _keep_answers(options: argparse.Namespace, answers: list[tuple[str, Prediction]], stream: TextIO) -> None:
    from cnnlab.deploy.answers import sort_into, write_answers

    if options.out is not None:
        write_answers(Path(options.out), answers)
        print(one_line(f"answers  {options.out}  ({len(answers):,} images)"), file=stream)
    if options.sort is not None:
        for name, count in sort_into(Path(options.sort), answers):
            print(one_line(f"sorted   {Path(options.sort) / name}  ({count:,} images)"), file=stream)


def _answers(predictor: Predictor, pictures: list[Any], bad: list[str]) -> list[Prediction | None]:
    """An answer for each picture; None for one that cannot be read, and its reason goes to `bad`."""
    try:
        return list(predictor.predict(pictures))
    except DataError as error:
        if len(pictures) == 1:
            bad.append(str(error))
            return [None]
    return [answer for picture in pictures for answer in _answers(predictor, [picture], bad)]


def _segments(run: str) -> bool:
    """Whether a run classifies every pixel."""
    from cnnlab.runs.folder import open_folder

    folder = open_folder(run)
    return folder.card.exists() and folder.read_card().get("task") == "segmentation"


def _predict_pixels(options: argparse.Namespace) -> None:
    from cnnlab.deploy.segmenter import segment_pictures

    for answer in segment_pictures(options.run, options.paths, options.out, options.device, options.trust_code):
        if options.json:
            _print_json(answer.facts())
            continue
        shares = sorted(answer.shares.items(), key=lambda pair: -pair[1])
        found = "  ".join(f"{label} {100 * share:.1f} %" for label, share in shares if share)
        _print_line(f"{answer.picture}: {found}  →  {answer.overlay}")


def _explain(options: argparse.Namespace, words: Sequence[str]) -> None:
    from cnnlab.explain.pictures import explain_pictures

    method = options.method or "auto"
    for answer in explain_pictures(
        options.run,
        options.paths,
        method,
        options.target,
        options.layer,
        options.out,
        options.device,
        options.trust_code,
    ):
        line = f"{answer.picture}: {answer.label} {100 * answer.probability:.1f} %"
        if answer.target != answer.label:
            line += f"  {answer.target} {100 * answer.target_probability:.1f} %"
        _print_line(f"{line}  →  {answer.file}")


def _localize(options: argparse.Namespace, words: Sequence[str]) -> None:
    from cnnlab.explain.pictures import localize_pictures

    for answer in localize_pictures(options.run, options.paths, options.out, options.trust_code):
        if options.json:
            _print_json(answer.facts())
            continue
        found = "  ".join(f"{one['label']} {100 * one['probability']:.1f} %" for one in answer.objects)
        shrunk = f"  (looked at {100 * answer.shrunk:.0f} % of its size)" if answer.shrunk < 1 else ""
        _print_line(f"{answer.picture}: {found or 'nothing'}{shrunk}  →  {answer.file}")


def _print_line(line: str) -> None:
    print(one_line(line))


def _print_json(facts: Any, indent: int | None = None) -> None:
    """One line without `indent`; where the stream has no Unicode, with the escapes of JSON instead of its own."""
    text = to_json(facts, indent=indent, ensure_ascii=not streams.is_unicode())
    print(one_line(text) if indent is None else text)


def _model(options: argparse.Namespace, words: Sequence[str]) -> None:
    if options.name is None and not options.list:
        raise ModelError("give the NAME of a model, such as resnet; cnnlab model --list names them all.")
    from cnnlab.models.arguments import describe_models, model_from_words

    if options.list:
        _refuse_ignored(options, ("name", "overrides", "json"), "is for one model, and --list names them all")
        print(describe_models())
        return
    from cnnlab.models.summary import summarise

    summary = summarise(*model_from_words(options.name, options.overrides))
    from cnnlab.models.table import as_table, facts

    if options.json:
        _print_json(facts(summary), indent=1)
        return
    from cnnlab.tracking.console import plain_console

    console = plain_console()
    console.width = max(80, console.width)  # narrower, the terminal breaks the lines and no figure is lost
    console.print(as_table(summary), crop=False)


KEYS_OF_A_BATCH = ("recipe=", "seed=", "trainer.batch_size=")


def _data(options: argparse.Namespace, words: Sequence[str]) -> None:
    from cnnlab import config

    options.name = options.name.removeprefix("data=")  # as other commands have it
    for word in options.overrides:
        if not word.lstrip("+").startswith(("data.", "augment=", "augment.", *KEYS_OF_A_BATCH)):
            config.compose([word], options.config_dir, trust_code=options.trust_code)  # a mistyped key is named as that
            raise ConfigError(
                f"{word!r} changes nothing here: a set is loaded by data.* and augment keys, recipe, seed and"
                " trainer.batch_size; leave it out."
            )
    if options.show is not None:
        from cnnlab.figure import format_of

        picture = options.show or f"{options.name.replace(':', '.')}-batch.png"
        try:
            format_of(picture)
        except ValueError as error:
            raise _unwritable(picture, error) from None
    # Looking at a set refuses nothing: the share of unreadable pictures is one of the things to see.
    words = [f"data={options.name}", "data.max_corrupt=1", *options.overrides]
    from cnnlab.data.recommend import compose_for_set
    from cnnlab.tracking.console import DecodeBar

    settings = compose_for_set(words, options.config_dir, trust_code=options.trust_code)
    with DecodeBar() as bar:
        import torch

        from cnnlab.data.load import build_data
        from cnnlab.data.own import import_dataset

        import_dataset(settings.data.name)  # the user's own word names it, or --trust-code allows it
        data = build_data(settings, torch.device("cpu"), bar.update)
        findings = None
        if options.check:
            from cnnlab.data.audit import audit

            findings = audit(data)
    from cnnlab.data.describe import as_text, facts

    described = facts(data, findings)
    if options.show is not None:
        from cnnlab.data.show import show_training_batch

        try:
            show_training_batch(data, picture)
        except (OSError, ValueError) as error:
            raise _unwritable(picture, error) from None
    _print_json(described, indent=1) if options.json else print(as_text(described))
    if options.show is not None:
        print(f"\none augmented training batch: {picture}", file=sys.stderr if options.json else sys.stdout)


def _unwritable(picture: str, error: Exception) -> ConfigError:
    return ConfigError(f"cannot write the picture {picture}: {error}; give another file name after --show.")


def _study(options: argparse.Namespace, words: Sequence[str]) -> None:
    from cnnlab.study.definition import define, names

    if options.list:
        _refuse_ignored(options, ("overrides", "seeds", "dry_run"), "is for one study, and --list names them all")
        for name in names():
            definition = define([name])
            what = " × ".join(definition.axes or definition.search) or "one short run"
            print(f"{name:<20} {definition.title}: {what}")
        return
    definition = define(options.overrides, options.seeds, options.config_dir, options.trust_code)
    if definition.search or definition.rates:
        (_search if definition.search else _rate_range)(options, words)
        return
    if options.dry_run:
        from cnnlab.study.execute import is_done
        from cnnlab.study.plan import plan

        for run in plan(definition):
            state = "done" if is_done(run, definition.test_on) else "to do"
            _print_line(f"{state:<6} {run.combination.label}, seed {run.seed}  {run.folder}")
        return
    from cnnlab.evaluation.tables import print_whole
    from cnnlab.study.progress import StudyProgress
    from cnnlab.study.study import run_study
    from cnnlab.study.table import sentence, terminal_table

    done = run_study(
        *options.overrides,
        seeds=options.seeds,
        progress=StudyProgress(),
        command=["cnnlab", *words],
        config_dir=options.config_dir,
        trust_code=options.trust_code,
    )
    print()
    print_whole(terminal_table(done.definition, done.cells), fold=False)
    for one in done.differences:
        _print_line(f"  {sentence(one)}")
    print(f"\ntable   {done.dir / 'table.md'}\nreport  {done.dir / 'report.html'}")
    done.raise_failures()


def _search(options: argparse.Namespace, words: Sequence[str]) -> None:
    from cnnlab.study import search
    from cnnlab.study.progress import StudyProgress
    from cnnlab.study.search_results import summary, terminal_table, verdicts

    if options.dry_run:
        for line in search.outline(options.overrides, options.config_dir, options.trust_code):
            _print_line(line)
        return
    from cnnlab.evaluation.tables import print_whole

    done = search.run_search(
        *options.overrides,
        progress=StudyProgress(),
        command=["cnnlab", *words],
        config_dir=options.config_dir,
        trust_code=options.trust_code,
    )
    print(f"\n{summary(done)}")
    print_whole(terminal_table(done), fold=False)
    print()
    for sentence in verdicts(done):
        _print_line(f"  {sentence}")
    print(f"\nagain   {shlex.join(done.command)}")
    print(f"table   {done.dir / 'table.md'}\nreport  {done.dir / 'report.html'}")
    done.raise_failures()


def _rate_range(options: argparse.Namespace, words: Sequence[str]) -> None:
    from cnnlab.tracking.console import DecodeBar, StepBar

    if options.dry_run:
        print("one short training, which is thrown away")
        return
    with DecodeBar() as bar, StepBar() as steps:
        from cnnlab.study.rate_range import find_learning_rate

        found = find_learning_rate(
            *options.overrides,
            progress=steps.update,
            decoding=bar.update,
            command=["cnnlab", *words],
            config_dir=options.config_dir,
            trust_code=options.trust_code,
        )
    for sentence in found.sentences():
        _print_line(sentence)
    again = f"\ntrain    {shlex.join(found.command)}" if found.command else ""
    print(f"{again}\npicture  {found.dir / 'rate_range.png'}\nreport   {found.dir / 'report.html'}")


def _compare(options: argparse.Namespace, words: Sequence[str]) -> None:
    from cnnlab.evaluation.compare import compare_runs
    from cnnlab.evaluation.tables import comparison_table, print_whole

    runs = compare_runs(options.runs, options.out)
    print_whole(comparison_table(runs))
    print(f"\ncurves  {options.out}")


def _export(options: argparse.Namespace, words: Sequence[str]) -> None:
    from cnnlab.deploy.export import export_run

    done = export_run(
        options.run,
        options.format,
        options.int8,
        options.fully_convolutional,
        options.out,
        options.data_root,
        options.trust_code,
    )
    right, times = done.figures["accuracy"], done.figures["latency_ms"]
    worst = max(done.figures["parity"]["difference"].values())
    print(f"{done.file}  {done.figures['bytes'] / 1e6:.2f} MB")
    print(f"  logits      at most {worst:.2g} from the model's")
    print(
        f"  accuracy    {100 * right['export']:.2f} %, the model's {100 * right['model']:.2f} %"
        f" ({right['n']:,} {right['split']} pictures)"
    )
    busy = ", the fastest calls: the machine was busy" if times["busy"] else ""
    print(f"  one image   {times['export']['fastest']:.2f} ms, the model {times['model']['fastest']:.2f} ms{busy}")


def _demo(options: argparse.Namespace, words: Sequence[str]) -> None:
    if options.spec:
        from cnnlab.deploy.spec import as_yaml, cloud_run_service

        _refuse_ignored(options, ("host", "port"), "is settled by --spec cloudrun")
        secret = options.secret or "cnnlab-token"
        service = cloud_run_service(
            options.run, options.image, secret, options.service_account, trust_code=options.trust_code
        )
        use = "gcloud run services replace THIS_FILE --region REGION"
        use += "" if options.token is None else f"\n# --token is not in here: put it into the secret {secret}"
        print(as_yaml(service, use), end="")
        return
    _refuse_ignored(options, CLOUD, "is read with --spec cloudrun alone, which is not there")
    from cnnlab.deploy.demo import port_of, serve

    port = port_of(os.environ) if options.port is None else options.port
    token = os.environ.get("CNNLAB_TOKEN") if options.token is None else options.token
    serve(options.run, options.host or "127.0.0.1", port, token, options.trust_code)


def _resolve_to_show(options: argparse.Namespace) -> Composed:
    """What the words lead to; nothing is downloaded, and a set that is not there is left out, with a line about it."""
    from cnnlab import config
    from cnnlab.data.recommend import resolve_for_set

    where = options.overrides, options.config_dir, options.config
    try:
        return resolve_for_set(*where, trust_code=options.trust_code, download=False)[0]
    except DataError as error:
        print(f"# without what follows from the images, as they cannot be looked at: {one_line(str(error))}")
        return config.resolve(*where, trust_code=options.trust_code)


def _options_text(options: argparse.Namespace) -> str:
    """Every group with its options, and every key with its meaning, for the words that were given."""
    from cnnlab import config
    from cnnlab.config.describe import OPTIMIZER_KEYS, Argument, options_text
    from cnnlab.models.arguments import argument_rows
    from cnnlab.training.optim import argument_defaults

    composed = _resolve_to_show(options)
    settings = composed.config
    optimizer = argument_defaults(str(settings.optimizer["name"]))
    arguments = {
        "model": [Argument(*row) for row in argument_rows(str(settings.model["name"]))],
        "optimizer": [Argument(key, value, OPTIMIZER_KEYS.get(key, "")) for key, value in optimizer.items()],
    }
    return options_text(composed, config.own_folder(options.config_dir), arguments)


if __name__ == "__main__":
    command_line()

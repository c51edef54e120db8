"""One run in progress: its steps, its epochs, and what a resume must restore. `loop.train` tells the story."""

from __future__ import annotations

import math
import time
from collections.abc import Iterator
from contextlib import nullcontext
from typing import Any, NoReturn

import torch
from torch import Tensor, nn

from cnnlab.config import Config
from cnnlab.data.batch import Batch
from cnnlab.data.data import Data
from cnnlab.deterministic import deterministic_forms
from cnnlab.device import constant
from cnnlab.errors import ModelError, NonFiniteLoss, OutOfMemory, RunError
from cnnlab.finite import infinite_buffers, non_finite
from cnnlab.models.registry import model_spec
from cnnlab.models.transfer import frozen_stages
from cnnlab.runs.copies import is_copy
from cnnlab.runs.folder import RunFolder, read_environment
from cnnlab.runs.state import StateWriter, differs
from cnnlab.runs.weights import save_weights
from cnnlab.tasks import Loss, mean_loss, task_of
from cnnlab.tasks.losses import LossFunction
from cnnlab.torch_patches import BatchNormCounts, bare_step, begin_momentum
from cnnlab.tracking.base import EpochEnded, Gradient, Noted, Started, Stepped
from cnnlab.training.adapt import Learners, endless, reversal_strength
from cnnlab.training.average import WeightAverage
from cnnlab.training.build import resume_command
from cnnlab.training.distributed import ALONE, Group
from cnnlab.training.forward import measure
from cnnlab.training.gradients import gradient_norm, layer_gradients
from cnnlab.training.graph import StepGraphs, StepScalars, can_be_graphed, pays_as_graph, recorder
from cnnlab.training.memory import ran_out_of_memory
from cnnlab.training.optim import set_rate
from cnnlab.training.parts import (
    balancing_weights,
    build_adversary,
    build_forward,
    build_optimizer,
    check_training,
    place_model,
)
from cnnlab.training.precision import Precision, choose_compile, choose_precision, give_back_freed_memory
from cnnlab.training.reproduce import seed_step
from cnnlab.training.restore import first_states, restore_optimizer, wrong_counters, wrong_history, wrong_optimizer
from cnnlab.training.schedule import rate_factor
from cnnlab.training.selection import improves, is_kept
from cnnlab.training.state import Sums, TrainingState

STATE_VERSION = 1
STEP_EVENTS_A_SECOND = 5
STEPS_A_NORM = 8  # the norm of the gradient is taken once in so many steps: of a tiny model it costs 5 % of one
FINITE = ("model", "average", "optimizer", "adversary", "sums", "norms", "lost")  # parts of the state
BY_CONTENT = ("optimizer", "history", "best")  # parts of a state whose form depends on how far the training is
OLDER = {"norms": [0.0, 0.0], "lost": 0.0, "threads": 1, "processes": 1}  # for states that had no such part yet


class Trainer:
    """One run in progress; `state` says how far it is.

    Of several processes (`group`) each has a trainer, and all have the same metrics and weights; the first one writes.
    """

    def __init__(
        self,
        model: nn.Module,
        data: Data,
        config: Config,
        folder: RunFolder,
        group: Group = ALONE,
        own_loss: LossFunction | None = None,
    ) -> None:
        check_training(config, data, group)
        self.config, self.settings, self.folder, self.data, self.group = config, config.trainer, folder, data, group
        self.device = data.train.device
        self.task = task_of(config, data, own_loss)
        self.model = place_model(model, self.settings, self.device)
        self.precision = Precision(choose_precision(self.settings.precision, self.device, model), self.device)
        self.weights = balancing_weights(data) if self.settings.balanced_sampling else None
        self.frozen = frozen_stages(self.model, config.init.freeze)
        self.thawed = [p for stage in self.frozen for p in stage.parameters() if p.requires_grad]
        if config.init.unfreeze_epoch is None:  # else the optimizer has to know them all
            self._set_modes()
        self.adversary = build_adversary(config, model, data)
        self.optimizer = build_optimizer(config, self.model, self.device, self.frozen, self.adversary)
        self.optimizer_step = bare_step(self.optimizer)
        self.scaler = torch.GradScaler(self.device.type, enabled=self.precision.name == "fp16")
        if self.scaler.is_enabled():
            begin_momentum(self.optimizer)
        self.masks = infinite_buffers(self.model)
        self.average = WeightAverage(self.model, self.settings.ema) if self.settings.ema is not None else None
        self.accumulate = min(self.settings.accumulate, len(data.train))
        self.steps_per_epoch = len(data.train) // self.accumulate
        self.total_steps = self.steps_per_epoch * self.settings.epochs
        self.compiled = self._is_compiled()
        self.learner: nn.Module = Learners(model, self.adversary) if self.adversary is not None else self.model  # type: ignore[arg-type]
        self.forward = build_forward(self.learner, model, self.compiled, config, group)
        together = self.device.type != "cpu" and not self.compiled  # a compiler does it itself
        self.counts = BatchNormCounts(self.model) if together else nullcontext()
        self.state = TrainingState(Sums.zero(self.device))
        self.graphs = self._graphs()
        self.gradients: dict[str, Gradient] = {}
        self.note: Noted | None = None
        self.last_save = time.monotonic()
        self.writer = StateWriter()

    # ---- the story of an epoch

    @property
    def finished(self) -> bool:
        return self._finished_after(self.state.epoch)

    def train_epoch(self) -> Iterator[Stepped | Noted | None]:
        """Train the rest of the current epoch; yield after each step, with an event a few times a second."""
        self._set_modes()
        began = last_event = time.monotonic()
        last_batch = self.steps_per_epoch * self.accumulate
        batches = self._batches(self.state.epoch, self.state.batch)
        others: Iterator[Batch] | None = None  # of the target domain; a step gets the same ones in every run
        if self.data.target_domain is not None:
            start = self.state.epoch * last_batch + self.state.batch
            others = endless(self.data.target_domain.train, start, self.settings.epochs, self.group.shard)
        while self.state.batch < last_batch:
            self.state.rate = set_rate(self.optimizer, self.rate_factor())
            seed_step(self.config.seed, self.state.step, self.group.rank, self.device)
            of_step: list[Batch] = []
            full = False
            try:
                of_step = [next(batches) for _ in range(self.accumulate)]
                domain = [next(others).images for _ in of_step] if others is not None else None
                self.train_step(of_step, domain)
            except (MemoryError, RuntimeError) as error:
                if not ran_out_of_memory(error):
                    raise
                full = True  # what the step has left is freed with the error
            if full:
                self._stop_out_of_memory(of_step[0].images if of_step else None)
            now = time.monotonic()
            self.state.sums.seconds += now - began
            began = now
            event: Stepped | Noted | None = None
            if self.note is not None:
                event, self.note = self.note, None
            elif now - last_event > 1 / STEP_EVENTS_A_SECOND:
                loss, accuracy, _ = self._training_metrics()
                event = Stepped(
                    self.state.epoch, self.state.batch // self.accumulate, loss, accuracy, self._throughput()
                )
                last_event = now
            yield event
            began = time.monotonic()

    def _batches(self, epoch: int, start: int = 0) -> Iterator[Batch]:
        """Those of this process, of an epoch from number `start` on."""
        return self.data.train.epoch(
            epoch, start, shard=self.group.shard, weights=self.weights, progress=epoch / self.settings.epochs
        )

    def rate_factor(self) -> float:
        """Learning rate of this step as a share of the highest one."""
        return rate_factor(self.config.schedule, self.state.step, self.total_steps, self.steps_per_epoch)

    def train_step(self, batches: list[Batch], domain: list[Tensor] | None = None) -> None:
        """One step of the optimizer over the mean gradient of `batches`.

        Args:
            domain: images of the target domain beside each batch, where training adapts to one.
        """
        last_of_epoch = self.state.batch + len(batches) >= self.steps_per_epoch * self.accumulate
        keep_gradients = last_of_epoch and self.config.logger.gradients
        with_norm = self.settings.grad_clip is None and self.state.batch // self.accumulate % STEPS_A_NORM == 0
        share = self.average.share(self.state.step + 1) if self.average is not None else 0.0
        if self.config.adapt.method == "batch_norm":
            assert domain is not None
            self._renew_statistics(batches, domain, share)
        elif self.graphs is None:
            self._learn(batches, domain, share, with_norm, keep_gradients)
        else:
            self.graphs.scalars.set(self.rate_factor(), share)
            if keep_gradients:
                self.graphs.run(batches, with_norm, keep_gradients)
            else:
                self.graphs(batches, with_norm)
        self.state.step += 1
        self.state.batch += len(batches)
        self.state.sums.count += sum(map(self._images_of, batches))

    def _learn(
        self,
        batches: list[Batch],
        domain: list[Tensor] | None,
        share: float | Tensor,
        with_norm: bool,
        keep_gradients: bool,
    ) -> None:
        """What a step does on the device, and nothing else: a graph of it does just that again.

        Args:
            share: how far the average moves; with_norm: measure the gradient; keep_gradients: also layer by layer.
        """
        for number, batch in enumerate(batches, 1):
            with self.group.batch(self.forward, last=number == len(batches)), deterministic_forms():
                logits, loss = self._forward_loss(batch, domain[number - 1] if domain is not None else None)
                self._count(loss.detach(), logits.detach(), batch)
                if self.device.type == "cpu" and not math.isfinite(loss.item()):
                    self._stop_non_finite("the loss", self.state.step + 1)  # unsaved: batch norm has seen this batch
                loss = loss if len(batches) == 1 else loss / len(batches)
                scaled = self.scaler.scale(loss)
                one = constant((1.0,), scaled.device)[0]  # else torch makes it anew
                scaled.backward(one.to(scaled.dtype))  # type: ignore[no-untyped-call]
        if self.scaler.is_enabled():
            self.scaler.unscale_(self.optimizer)
        if self.settings.grad_clip is not None:
            self._add_norm(nn.utils.clip_grad_norm_(self.learner.parameters(), self.settings.grad_clip))
        elif with_norm:
            self._add_norm(gradient_norm(self.learner))
        if keep_gradients:
            self.gradients = layer_gradients(self.model)
            if self.adversary is not None:
                self.gradients |= {f"adversary.{name}": of for name, of in layer_gradients(self.adversary).items()}
        if self.scaler.is_enabled():
            self.scaler.step(self.optimizer)
            self.scaler.update()
        else:
            self.optimizer_step()
        self.optimizer.zero_grad()
        if self.average is not None:
            self.average.move(share)

    @torch.no_grad()
    def _renew_statistics(self, batches: list[Batch], domain: list[Tensor], share: float) -> None:
        """Batch norm takes in the target's images, and nothing learns (Li et al. 2016, Adaptive Batch Normalization).

        The metrics of the epoch are those of the source as the model answers it now.
        """
        for batch, images in zip(batches, domain, strict=True):
            self.model.eval()
            logits = self.model(batch.images)
            with deterministic_forms():
                self._count(self._task_loss(logits, batch), logits, batch)
            self._set_modes()
            with self.group.batch(self.model):
                self.model(images)
        if self.average is not None:
            self.average.move(share)

    def _images_of(self, batch: Batch) -> int:
        """Images of a batch, of all processes together."""
        return len(batch.images) if self.group.size == 1 else self.data.train.batch_size

    def _count(self, loss: Tensor, logits: Tensor, batch: Batch) -> None:
        """Add the metrics of one batch to the sums: its loss over all processes, and the logits of this one."""
        count = self._images_of(batch)
        if self.scaler.is_enabled():  # an overflow in float16, whose step the scaler skips
            self.state.sums.lost += count * ~loss.isfinite()
            loss = loss.nan_to_num(0, 0, 0)
        self.state.sums.loss.add_(loss, alpha=count)
        correct = self.task.count_correct(logits, batch.targets)
        if self.group.size > 1:
            correct = self.group.total(correct.to(self.state.sums.correct.dtype))
        self.state.sums.correct += correct

    def _forward_loss(self, batch: Batch, domain: Tensor | None) -> tuple[Tensor, Tensor]:
        """Logits of this process's part of the batch, and the loss of the whole batch, a scalar."""
        if domain is None:
            with self.precision.autocast(), self.counts:
                logits = self._forward(batch.images)
            return logits, self._task_loss(logits, batch)
        strength = reversal_strength(self.state.step / self.total_steps)
        with self.precision.autocast():
            logits, apart = self.forward(batch.images, domain, strength)
        count = torch.full_like(apart, len(batch.images) + len(domain))
        apart = self._whole(mean_loss(apart * count, count))
        return logits, self._task_loss(logits, batch) + self.config.adapt.weight * apart

    def _task_loss(self, logits: Tensor, batch: Batch) -> Tensor:
        """The loss of the whole batch; an image that is mixed of two counts for both, each by its share."""
        losses = [self._whole(self.task.loss(logits, targets, share)) for targets, share in batch.parts]
        return losses[0] if len(losses) == 1 else losses[0] + losses[1]

    def _whole(self, loss: Loss) -> Tensor:
        """The scalar of a loss whose sums all processes have added up."""
        return loss.own if self.group.size == 1 else loss.value(self.group.summed(loss.sums))

    def end_epoch(self) -> EpochEnded:
        """Validate, keep the weights if this epoch is the one to keep, and save the state."""
        train_loss, train_accuracy, norm = self._training_metrics()
        began = time.monotonic()
        self._check_finite(self._state())  # before the weights are kept
        if math.isnan(train_loss):  # in all processes alike: float16 overflowed in every batch of the epoch
            self._stop_non_finite("the loss", self.state.step)
        throughput = self._throughput()
        validation = self.validate()
        row = {
            "epoch": self.state.epoch + 1,
            "step": self.state.step,
            "lr": self.state.rate,
            "train_loss": train_loss,
            "train_accuracy": train_accuracy,
            **validation,
            "seconds": round(self.state.sums.seconds + time.monotonic() - began, 3),
            "images_per_second": round(throughput, 1),
            "gradient_norm": norm,
        }
        metric = self.task.best_metric
        self.state.stale = 0 if improves(row, self.state.history, metric) else self.state.stale + 1
        kept = is_kept(row, self.state.history, metric, self.data.val.count)
        if kept:
            self.state.best = {key: row[key] for key in ("epoch", "step", *validation)}
            if self.group.first:
                save_weights(self.folder, self.best_model.state_dict(), self.card())
        if not self.state.best and self._finished_after(self.state.epoch + 1):  # there would be nothing to test
            self._stop_non_finite("the validation loss", self.state.step)
        self.state.history.append(row)
        self.state.epoch += 1
        self.state.batch = 0
        self.state.sums.clear()
        self.save()
        if self.group.first:
            self.folder.write_history(self.state.history)
        return EpochEnded(row, kept, self.gradients)

    def _finished_after(self, epochs: int) -> bool:
        patience = self.settings.early_stopping
        return epochs >= self.settings.epochs or (patience is not None and self.state.stale >= patience)

    def validate(self) -> dict[str, float | None]:
        """val_loss, val_accuracy and what else the task measures on the validation split; None where it is empty."""
        if not self.data.val.count:
            return {"val_loss": None, "val_accuracy": None}
        loader = self.data.evaluation_loader("val")
        metrics = self._measured(loader)
        if metrics is None and self._forget_graphs():  # their memory may be what is missing
            metrics = self._measured(loader)
        if metrics is None:
            count = loader.batch_size
            raise OutOfMemory(
                f"there is not enough memory to validate {count} images at once; take a smaller model or smaller"
                " images."
            )
        if self.group.size > 1:
            metrics.merge(self.group)
        return {f"val_{name}": value for name, value in metrics.compute().items()}

    # ---- details

    def _measured(self, loader: Any) -> Any:
        """Metrics of the best model over a loader; None where memory runs out."""
        try:
            return measure(self.best_model, loader, self.task.metrics(), self.group.shard)
        except (MemoryError, RuntimeError) as error:
            if not ran_out_of_memory(error):
                raise
            return None

    def _forget_graphs(self) -> bool:
        """Give back the memory of recorded steps; whether there were any."""
        if self.graphs is None or not self.graphs.recordings:
            return False
        self.graphs.forget()
        give_back_freed_memory()
        return True

    def _is_compiled(self) -> bool:
        images = self.total_steps * self.accumulate * self.data.train.batch_size
        shape = (self.data.in_channels, *self.data.image_size)
        alone = self.group.size == 1 and self.adversary is None
        compiles = choose_compile(self.settings.compile, self.device, self.model, shape, images)
        return alone and compiles and not self._is_recorded()

    def _is_recorded(self) -> bool:
        """Whether steps run as CUDA graphs: where they can and that pays, instead of a compiled model."""
        pays = self.group.size == 1 and pays_as_graph(self.settings, self.device, self.total_steps)
        return pays and can_be_graphed(self.config, self.model, self.optimizer, self.precision)

    def _graphs(self) -> StepGraphs | None:
        if not self._is_recorded():
            return None
        scalars = StepScalars(self.optimizer, self.device)

        def learn(batches: list[Batch], with_norm: bool, keep_gradients: bool) -> None:
            self._learn(batches, None, scalars.share, with_norm, keep_gradients)

        return StepGraphs(learn, scalars, recorder(self.device), self._tell_no_graph)

    def _tell_no_graph(self, why: str) -> None:
        self.note = Noted(f"a training step cannot be a CUDA graph here ({why}); training goes on without.", True)

    def _set_modes(self) -> None:
        """Everything learns but the frozen stages: they take no gradient, and their batch norm stays as it is."""
        self.model.train()
        until = self.config.init.unfreeze_epoch
        learns = until is not None and self.state.epoch >= until
        for stage in self.frozen:
            stage.train(learns).requires_grad_(learns)
            if not self.config.init.frozen_biases:
                for name, parameter in stage.named_parameters():
                    parameter.requires_grad_(learns or name.split(".")[-1] == "bias")

    @property
    def best_model(self) -> nn.Module:
        """What is validated and kept: the running average if there is one."""
        return self.average.model if self.average is not None else self.model

    def _forward(self, images: Tensor) -> Tensor:
        """Through the compiled model; where `auto` chose to compile and the compiler fails, plainly from then on."""
        if not self.compiled or self.settings.compile is True:
            return self.forward(images)  # type: ignore[no-any-return]
        try:
            return self.forward(images)  # type: ignore[no-any-return]
        except Exception as error:  # the compiler's errors have no common class, and each size is compiled anew
            if ran_out_of_memory(error):
                raise
            self.forward, self.compiled = self.model, False
            self.note = Noted(f"torch.compile failed here ({type(error).__name__}); training goes on without it.", True)
            return self.model(images)  # type: ignore[no-any-return]

    def _add_norm(self, norm: Tensor) -> None:
        """What is no number, as after a step that fp16 had to skip, is left out, without asking the device."""
        self.state.sums.norm += norm.nan_to_num(0, 0, 0)
        self.state.sums.norms += norm.isfinite()

    def _training_metrics(self) -> tuple[float, float, float | None]:
        """Mean loss, accuracy and norm of the gradient so far. The device has then done all steps, which is part of
        their time."""
        began = time.monotonic()
        metrics = self.state.sums.metrics()
        self.state.sums.seconds += time.monotonic() - began
        return metrics

    def _throughput(self) -> float:
        return self.state.sums.count / max(1e-9, self.state.sums.seconds)

    def _check_finite(self, state: dict[str, Any]) -> None:
        """Raise NonFiniteLoss, in all processes alike, where what a resume would restore is not finite."""
        wrong = self._non_finite(state)
        if not self.group.any(bool(wrong)):
            return
        wrong = wrong or "the state of another process"
        if not self.state.step:
            raise ModelError(f"{wrong} is not finite before the first step; check the initial weights of the model.")
        self._stop_non_finite(wrong, self.state.step)

    def _non_finite(self, state: dict[str, Any]) -> str:
        """What is not finite of the parts that a resume computes with; "" where all is."""
        parts = {name: state.get(name) for name in FINITE}
        parts["optimizer"] = {"state": state["optimizer"]["state"]}  # its settings are the configuration's
        wrong = non_finite(parts, self.masks)
        return "" if not wrong else "the loss" if wrong[0].startswith("sums") else wrong[0]

    def _stop_non_finite(self, what: str, step: int) -> NoReturn:
        rate = float(self.optimizer.defaults["lr"])
        raise NonFiniteLoss(
            f"{what} is not finite at step {step} (epoch {self.state.epoch + 1}); the last good checkpoint is in"
            f" {self.folder.state}. Resume from it with a lower rate (optimizer.lr is {rate:.3g}):"
            f" {resume_command(self.folder.path, self.config)} optimizer.lr={rate / 10:.3g}, or with"
            " trainer.grad_clip=1; if its weights are already too large, start a new run with that."
        )

    def _stop_out_of_memory(self, images: Tensor | None) -> NoReturn:
        """Say which batch would fit; the last saved state stays as it is. None: not even the images did."""
        fix = "halve trainer.batch_size, or take a smaller model or smaller images"
        if images is None:
            raise OutOfMemory(f"there is not enough memory for the images of a batch; {fix}.") from None
        size = len(images) // 2
        self._forget_graphs()
        while size:
            self.optimizer.zero_grad()
            give_back_freed_memory()
            try:
                with self.precision.autocast(), deterministic_forms():
                    self.model(images[: size + size // 4]).float().sum().backward()  # a step needs more than this
            except (MemoryError, RuntimeError) as again:
                if not ran_out_of_memory(again):
                    raise
                size //= 2
                continue
            parts = -(-len(images) * self.accumulate // size)
            whole = size * self.group.size
            fix = f"{size} do: start again with trainer.batch_size={whole} trainer.accumulate={parts}"
            break
        raise OutOfMemory(f"there is not enough memory to train on {len(images)} images at once; {fix}.") from None

    def started(self, facts: dict[str, str]) -> Started:
        batch = next(self._batches(0))
        images = self.data.preprocess.denormalise(batch.images[:32]).cpu().numpy()
        names = self.data.label_names(batch)[:32]
        facts = facts | {"device": self.describe()}
        return Started(
            str(self.folder.path),
            facts,
            self.config.to_dict(),
            self.settings.epochs,
            self.state.epoch,
            self.steps_per_epoch,
            (images, names),
            metric=self.task.best_metric.name,
            is_share=self.task.best_metric.higher,
        )

    def describe(self) -> str:
        words = [str(self.device), self.precision.name]
        words += ["channels_last"] if self.settings.channels_last else []
        words += ["CUDA graphs"] if self.graphs is not None and not self.graphs.gave_up else []
        words += ["compiled (the first step takes up to a minute)"] if self.compiled else []
        threads = torch.get_num_threads()
        words += [f"{threads} thread{'s' if threads > 1 else ''}"] if self.device.type == "cpu" else []
        words += [f"{self.group.size} processes"] if self.group.size > 1 else []
        return ", ".join(words)

    def card(self) -> dict[str, Any]:
        """What best/model.json says."""
        name, arguments = model_spec(self.model)
        return {
            "model": {"name": name, "arguments": arguments},
            "task": self.task.name,
            "classes": self.data.classes,
            "preprocess": self.data.preprocess.to_dict(),
            "data": self.config.data.name,
            "seed": self.config.seed,
            "averaged": self.average is not None,
            "git": read_environment(self.folder).get("git"),
            **self.state.best,
        }

    # ---- saving and restoring

    @property
    def seconds_since_save(self) -> float:
        return time.monotonic() - self.last_save

    def save(self) -> None:
        """Write the whole state; it is complete or the old one stays. All processes come here at the same step.

        From an accelerator it is fetched now, and written while training goes on, see `StateWriter`.

        Raises:
            NonFiniteLoss: something in it is no number; the old one stays.
            RunError: it cannot be written.
        """
        state = self._state()
        self._check_finite(state)
        if self.group.first:
            self.writer.write(self.folder.state, state, self.device)
            if is_copy(self.folder.path):
                self.writer.wait()  # what goes up to a bucket belongs together
        self.last_save = time.monotonic()

    def _state(self) -> dict[str, Any]:
        return {
            "version": STATE_VERSION,
            "model": self.model.state_dict(),
            "average": self.average.model.state_dict() if self.average is not None else None,
            "optimizer": self.optimizer.state_dict(),
            "scaler": self.scaler.state_dict(),
            "adversary": self.adversary.state_dict() if self.adversary is not None else None,
            **self.state.to_dict(),
            "threads": torch.get_num_threads(),
            "processes": self.group.size,
        }

    def restore(self, state: dict[str, Any]) -> None:
        """Raises RunError if the state is of another model, another version of cnnlab, or no state that training
        could have come to. Nothing has changed then."""
        if state.get("version") != STATE_VERSION:
            raise RunError(f"{self.folder.state} was saved by another version of cnnlab; resume with that one.")
        first = first_states(self.optimizer)
        like = {key: value for key, value in self._state().items() if value is not None and key not in BY_CONTENT}
        of_like = {key: state.get(key, OLDER.get(key)) for key in like}
        history, best = state.get("history"), state.get("best")
        wrong = (
            differs(of_like, like, "it")
            or wrong_history(history, best, bool(self.data.val.count), self.task.best_metric.column)
            or wrong_counters(state["counters"], len(history or ()), self.steps_per_epoch, self.accumulate)
            or wrong_optimizer(state.get("optimizer"), first, self.optimizer, state["counters"]["step"])
        )
        if wrong:
            raise RunError(f"{self.folder.state} does not fit this run: {wrong}; restore it from a copy.")
        if wrong := self._non_finite(OLDER | state):  # earlier versions saved it
            raise RunError(
                f"cannot resume from {self.folder.state}: {wrong} in it is not finite. Start a new run with a lower"
                " optimizer.lr or trainer.grad_clip=1."
            )
        self.model.load_state_dict(state["model"])
        if self.average is not None:
            self.average.model.load_state_dict(state["average"])
        restore_optimizer(self.optimizer, state["optimizer"], first)
        for group in self.optimizer.param_groups:
            group["highest_lr"] = float(self.optimizer.defaults["lr"]) * group["scale"]  # of the config as it is
        self.scaler.load_state_dict(state["scaler"])
        if self.adversary is not None:
            self.adversary.load_state_dict(state["adversary"])
        self.state = TrainingState.from_dict(state | {key: of_like[key] for key in ("norms", "lost")}, self.device)
        if self.graphs is not None:
            self.graphs.forget()  # what they know by its address is another now
        if self.group.first:  # a kill between the two files can have left one a line ahead of the other
            self.folder.write_history(self.state.history)

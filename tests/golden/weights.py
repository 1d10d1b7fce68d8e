"""What Onward computes for the cases of methods that move weights: PseuZO's toy language model, forward differences."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from golden.cases import Trial, Unreadable
from golden.runs import Results
from onward.core import Frames, GradSink, KeyedDraws, Network, run_sequence
from onward.core.drawn import Drawn, Ray, descend, names_of
from onward.core.draws import Gaussian, RecordedDraws
from onward.core.objective import CrossEntropy, PerStep
from onward.core.probe import Shift, replaced, terms
from onward.core.rule import LearningRule
from onward.optim import optimizers
from onward.rules import rules
from onward.rules.forward_gradient import ForwardGradient
from onward.rules.pseuzo import Window
from onward.rules.spsa import SPSA, Antithetic, OneSided

LENGTH = 14
"""Of the authors' window."""


class Toy(nn.Module):
    """A causal language model: h = tanh(L1 running mean), o = h + tanh(L2 h), logits = head o."""

    def __init__(self, trial: Trial):
        super().__init__()
        vocabulary, width = trial.setting("vocab"), trial.setting("d")
        self.embed = nn.Embedding(vocabulary, width)
        self.layer1, self.layer2 = nn.Linear(width, width), nn.Linear(width, width)
        self.lm_head = None if trial.setting("tied") else nn.Linear(width, vocabulary, bias=False)
        self.options = trial.setting("num_options")
        self.to(next(iter(trial.params.values())).dtype)
        self.load_state_dict(dict(trial.params))

    def body(self, ids: Tensor) -> Tensor:
        """o."""
        x = self.embed(ids)
        mean = x.cumsum(1) / torch.arange(1, ids.shape[1] + 1, dtype=x.dtype)[:, None]
        h = self.layer1(mean).tanh()
        return h + self.layer2(h).tanh()

    def loss(self, o: Tensor, ids: Tensor, lengths: Tensor, labels: Tensor) -> Tensor:
        """Over the options of every question; over all counted tokens, where there are none."""
        head = self.embed.weight if self.lm_head is None else self.lm_head.weight
        logits, targets = F.linear(o, head)[:, :-1], ids[:, 1:]
        told = logits.log_softmax(-1).gather(-1, targets[..., None])[..., 0]
        places = torch.arange(targets.shape[1])
        counted = (places >= targets.shape[1] - lengths[:, None]) & (targets != 0)
        if not self.options:
            return -told[counted].mean()
        scores = (told * counted).sum(1) / counted.sum(1)
        return F.cross_entropy(scores.view(-1, self.options), labels.view(-1, self.options)[:, 0])


class Steps:
    """The updates of one case, by the engine's window, rays and drawn gradients."""

    def __init__(self, trial: Trial):
        self.trial, self.model = trial, Toy(trial)
        self.names = names_of(self.model)
        self.eps, self.lr, self.decay = (trial.setting(name) for name in ("eps", "lr", "wd"))
        self.window = Window(LENGTH, trial.setting("B"), (trial.setting("seq"), trial.setting("d")))

    def __iter__(self) -> Iterator[tuple[str, Tensor]]:
        for step, weight in enumerate(self.trial.setting("lambda_schedule")):
            found = self.windowed(step, weight) if weight else self.two_point(step)
            yield from ((f"step{step}.{name}", value) for name, value in found)
            for name, parameter in self.model.named_parameters():
                yield f"step{step}.param_after.{name}", parameter.detach().clone()

    def ray(self, step: int) -> Ray:
        """The recorded direction of a step."""
        drawn = {("probe/0", name): self.trial.stored[f"step{step}.z.{name}"] for name in self.names.values()}
        recorded = RecordedDraws({key: z.reshape(1, 1, -1) for key, z in drawn.items()})
        return Ray(recorded, Gaussian(), "probe/0", step)

    def batch(self, step: int) -> tuple[Tensor, Tensor, Tensor]:
        """Tokens, option lengths and labels."""
        ids, lengths = (self.trial.input(name)[step] for name in ("input_ids", "option_len"))
        return ids, lengths, self.trial.input("labels")[step] if self.model.options else ids

    def at(self, shift: Shift, step: int) -> tuple[Tensor, Tensor]:
        """o and the loss with weights moved."""
        with replaced(self.model, partial(shift.stand_in, names=self.names)):
            o = self.model.body(self.batch(step)[0])
            return o, self.model.loss(o, *self.batch(step))

    def windowed(self, step: int, weight: float) -> Results:
        """One step with the window."""
        o, loss = self.at(Shift(), step)
        (error,) = torch.autograd.grad(loss, o, retain_graph=True)
        if step == 0:
            yield from self.through(o, error)
        if weight == 1 and self.trial.setting("new_epoch")[step]:
            self.window.empty()
        with torch.no_grad():
            moved, loss_moved = self.at(Shift(self.ray(step), self.eps), step)
        self.window.push((moved - o).detach(), step)
        dots, weights = self.window.dots(error), self.window.weights(weight)
        coefficients = weights * dots / self.eps
        yield from {"loss": loss, "loss_perturbed": loss_moved, "o": o, "o_perturbed": moved}.items()
        yield "dloss_do", error
        shown = {"window_dot_products": dots, "lambda_weights_used": weights, "window_coefficients": coefficients}
        yield from ((name, values.flip(0)) for name, values in shown.items())
        for coefficient, sequence in reversed(list(zip(coefficients, self.window.filled, strict=True))):
            self.update(coefficient, self.ray(sequence))

    def through(self, o: Tensor, error: Tensor) -> Results:
        """The gradient of everything below o."""
        grads = torch.autograd.grad(o, list(self.names), error, retain_graph=True, allow_unused=True)
        for (parameter, name), grad in zip(self.names.items(), grads, strict=True):
            yield f"gradient_through_o.{name}", torch.zeros_like(parameter) if grad is None else grad

    @torch.no_grad()
    def two_point(self, step: int) -> Results:
        """One step of MeZO."""
        stencil, ray = Antithetic(self.eps), self.ray(step)
        losses = torch.stack([self.at(shift, step)[1] for shift in stencil.shifts([ray])])
        slope = stencil.slopes(losses, losses)
        yield from {"loss_plus": losses[0], "projected_grad": slope[0]}.items()
        self.update(slope[0], ray)

    def update(self, coefficient: Tensor, ray: Ray) -> None:
        """theta <- theta - lr (c z + wd theta), without decay of biases."""
        drawn = Drawn.known(terms(coefficient.view(1), [ray]), self.names)
        for parameter, name in self.names.items():
            decay = 0.0 if "bias" in name else self.decay
            descend([drawn], [{"params": [parameter], "lr": self.lr, "weight_decay": decay}])


def pseuzo(trial: Trial) -> Results:
    """Everything that Onward has to say about a case of PseuZO."""
    yield from Steps(trial)


class Differences:
    """A tanh network that learns from forward differences along recorded directions."""

    def __init__(self, trial: Trial):
        self.trial = trial
        (into, hidden), (_, classes) = trial.setting("shapes")
        self.net = Network(nn.Sequential(nn.Linear(into, hidden), nn.Tanh(), nn.Linear(hidden, classes))).double()
        nn.utils.vector_to_parameters(trial.input("theta0").clone(), self.net.parameters())

    @property
    def theta(self) -> Tensor:
        """All parameters, flat."""
        return nn.utils.parameters_to_vector(self.net.parameters()).detach()

    def learn(self, rule: LearningRule, step: int = 0) -> tuple[Tensor, Tensor]:
        """Leaves gradients behind; the loss, and the slope along each direction."""
        directions, names, recorded = self.trial.input("directions")[step], names_of(self.net), {}
        for number, flat in enumerate(directions):
            parts = flat.split([p.numel() for p in names])
            recorded |= {(f"probe/{number}", n): z.view(1, 1, -1) for n, z in zip(names.values(), parts, strict=True)}
        draws, objective, x = RecordedDraws(recorded), PerStep(CrossEntropy()), Frames(self.trial.x[None])
        rule.bind(self.net, objective, x, KeyedDraws(0))
        sink, drawn = GradSink(self.net), list[Drawn]()
        self.net.zero_grad()
        loss = run_sequence(self.net, rule, objective, x, self.trial.input("y"), sink, draws=draws).loss
        sink.flush(drawn.append)
        for gradient in drawn:
            gradient.store()
        slopes = [len(directions) * term.coefficient for gradient in drawn for term in gradient.terms]
        return loss, torch.tensor(slopes, dtype=torch.float64)


def optimisers(trial: Trial) -> Results:
    """Forward differences and the optimisers that torch has; the learned ones are another matter."""
    if "directions" not in trial.inputs:
        raise Unreadable("a case of zo-snn without directions; expected zo-optimisers")
    q = trial.setting("q")
    for mu in trial.setting("mu"):
        yield f"estimate.mu{mu}", Differences(trial).learn(SPSA(OneSided(mu), q))[1]
    yield "directional_derivatives", Differences(trial).learn(ForwardGradient(q))[1]
    exact = Differences(trial)
    yield "loss", exact.learn(rules.build("bptt"))[0]
    yield "true_gradient", torch.cat([p.grad.flatten() for p in exact.net.parameters() if p.grad is not None])
    for name in ("sgd", "sign", "adam"):
        for step, theta in enumerate(_trajectory(trial, name)):
            yield f"{name}.step{step}.theta", theta


def _trajectory(trial: Trial, name: str) -> Iterator[Tensor]:
    """theta after every step, at lr / n."""
    run = Differences(trial)
    lr = trial.setting("lr") / len(run.theta)
    choice = {"name": "adam", "beta1": 0.9, "beta2": 0.996} if name == "adam" else {"name": "sgd"}
    groups = [{"params": list(run.net.parameters())}]
    optimizer = optimizers.build({**choice, "lr": lr}, groups)
    for step in range(trial.setting("steps")):
        run.learn(SPSA(OneSided(trial.setting("mu")[0]), trial.setting("q")), step)
        if name == "sign":
            for parameter in run.net.parameters():
                assert parameter.grad is not None
                parameter.grad.sign_()
        optimizer.step()
        yield run.theta

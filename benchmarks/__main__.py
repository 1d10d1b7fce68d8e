"""``python -m benchmarks`` (``make bench``): start-up times, throughput of the default run, memory over T."""

from __future__ import annotations

import subprocess
import sys
from statistics import median
from time import perf_counter

import torch

import onward
from benchmarks import memory
from benchmarks.recipes import machine

REPEATS = 5


def seconds(code: str) -> float:
    """Median wall-clock seconds of a fresh interpreter running ``code``."""
    times = []
    for _ in range(REPEATS):
        began = perf_counter()
        subprocess.run([sys.executable, "-c", code], check=True, capture_output=True)
        times.append(perf_counter() - began)
    return median(times)


def start_up() -> None:
    """What importing the package adds to importing torch, and how long the first page of help takes."""
    bare, both = seconds("import torch"), seconds("import torch, onward; onward.Network, onward.rules.build")
    blank, help_page = seconds("pass"), seconds("from onward.cli import main; main(['--help'])")
    print(f"import onward and its engine, above import torch   {both - bare:6.2f} s")
    print(f"import onward alone, above an empty interpreter    {seconds('import onward') - blank:6.2f} s")
    print(f"onward --help                                      {help_page:6.2f} s")


def throughput(name: str) -> float:
    """Samples a second of a rule on the default network and batch, updates included, median of mini-batches."""
    data = onward.load("mnist")
    batches = list(zip(range(3 * REPEATS), onward.Loader(data.train, 128, 6).epoch(0), strict=False))
    net = onward.models.build("mlp", data.train.features, 10, onward.LIF)
    objective, draws, sink = onward.PerStep(onward.CrossEntropy()), onward.KeyedDraws(0), onward.GradSink(net)
    rule = onward.rules.build(name)
    rule.bind(net, objective, batches[0][1].x, draws)
    optimizer = torch.optim.Adam([*net.parameters(), *rule.parameters()], lr=1e-3, fused=True)
    times = []
    for number, batch in batches:
        began = perf_counter()
        onward.run_sequence(net, rule, objective, batch.x, batch.y, sink, draws=draws, ids=batch.ids, sequence=number)
        sink.flush()
        optimizer.step()
        optimizer.zero_grad()
        times.append(perf_counter() - began)
    return 128 / median(times)


def main() -> None:
    """Prints everything."""
    print(f"{machine()}, torch {torch.__version__}, {torch.get_num_threads()} threads")
    start_up()
    print("\nMNIST, 784-800-800-10, T = 6, B = 128: samples/s, and ratio to BPTT in this run")
    rates = {name: throughput(name) for name in ("bptt", "ottt", "sltt", "sltt-k", "dfa", "opzo", "zo")}
    for name, rate in rates.items():
        print(f"{name:8} {rate:8.0f}   {rate / rates['bptt']:.2f}")
    print("\nPeak memory above parameters, 2312-800-800-10, B = 64, chunks of 8")
    memory.report(memory.RULES, memory.STEPS)


if __name__ == "__main__":
    main()

"""The energy of a run's network on data."""

from __future__ import annotations

from onward.data import Dataset, spread
from onward.energy.constants import Technology
from onward.energy.count import count
from onward.energy.estimate import Energy
from onward.energy.training import training_cost
from onward.train import RunFolder, subject_of
from onward.train.folder import write_json
from onward.train.launch import to_test

FILE = "energy.json"


def energy_of_run(
    folder: RunFolder,
    data: Dataset,
    technology: Technology,
    samples: int | None = None,
    with_traffic: bool = False,
    device: str = "cpu",
) -> Energy:
    """Counts what the run's network does on at most ``samples`` of ``data``, spread over it; the folder keeps `FILE`.

    Raises `ShapeError` where the samples do not fit it.
    """
    subject = subject_of(folder, device)
    net, (loader, chunk) = subject.net, to_test(subject, spread(data, samples))
    counts = count(net, loader, device, chunk)
    sample = next(iter(loader.epoch(0))).x.to(device)
    found = Energy(str(folder.path), data.name, technology, counts, training_cost(net, sample, counts), with_traffic)
    write_json(folder.path / FILE, found.mapping())
    return found

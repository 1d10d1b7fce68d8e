"""Many trainings at once: on this machine, on a Ray cluster, or under Slurm.

A `Job` is a command line of ``onward``; a `Launcher` runs jobs and hands back what they said, in the order in which
they end; `carry_out` runs jobs that need each other's results.
"""

from onward.launch.choice import chosen
from onward.launch.job import Job, Launcher, Outcome
from onward.launch.local import Local
from onward.launch.plan import carry_out

__all__ = ["Job", "Launcher", "Local", "Outcome", "carry_out", "chosen"]

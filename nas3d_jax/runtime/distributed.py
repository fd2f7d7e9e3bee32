"""Several processes, on one host or many, as one run, through JAX's own runtime."""

from __future__ import annotations

import importlib.util
import os
import signal
import sys
from collections.abc import Callable, Mapping
from typing import Literal

import jax
import numpy as np
from jax.experimental import multihost_utils
from rich.console import Console

from nas3d_jax.errors import InputError
from nas3d_jax.runtime.stopping import Stop

Launcher = Literal["SLURM", "Open MPI", "Kubernetes"]


def launcher(environ: Mapping[str, str]) -> tuple[Launcher, int | None] | None:
  """What started this process as one of several, by its environment.

  Args:
    environ: environment variables.

  Returns:
    Its name and the number of processes, which only the cluster itself knows under Kubernetes; None where this process
    is alone. A batch script of SLURM is one process, whatever its job holds: `srun` starts several.
  """
  for name, variable in (("SLURM", "SLURM_STEP_NUM_TASKS"), ("Open MPI", "OMPI_COMM_WORLD_SIZE")):
    count = environ.get(variable, "")
    if count.isdecimal() and int(count) > 1:
      return name, int(count)
  if "KUBERNETES_SERVICE_HOST" in environ and "JOB_COMPLETION_INDEX" in environ:
    return "Kubernetes", None
  return None


def join(
  coordinator: str | None = None,
  processes: int | None = None,
  process: int | None = None,
  *,
  environ: Mapping[str, str] = os.environ,
) -> int:
  """Joins the other processes of a run; call it before JAX is first asked for a device. Once is enough.

  Args:
    coordinator: host:port of the first process; None is found out under SLURM, Open MPI or Kubernetes.
    processes: their number; None is found out in the same way, 1 alone keeps this process by itself, whatever started
      it.
    process: the number of this one, from 0; None is found out in the same way.
    environ: environment variables.

  Returns:
    The number of processes; 1 where this one is alone.

  Raises:
    InputError: some of the three are missing or out of range, the launcher gives too little, or the others did not
      come.
  """
  given = {"coordinator": coordinator, "processes": processes, "process": process}
  if processes == 1 and coordinator is None and process is None:
    return 1
  found = None
  if any(value is not None for value in given.values()):
    _check(given)
  else:
    found = launcher(environ)
    if found is None:
      return 1
    _check_launcher(found[0], environ)
  if jax.distributed.is_initialized():
    return jax.process_count()
  names = dict(coordinator_address=coordinator, num_processes=processes, process_id=process)
  try:
    jax.distributed.initialize(**names)
  except Exception as error:  # JAX, gRPC and the cluster's own clients each raise their own
    reason = (str(error).splitlines() or [type(error).__name__])[0][:300]
    where = f"of {found[0]}" if found else f"at {coordinator}"
    raise InputError(
      f"this process did not join the others {where} ({reason}); see that all {processes or 'processes'} were started "
      "and reach the first one, or give --coordinator, --processes and --process; --processes=1 runs it alone"
    ) from error
  return jax.process_count()


def first_says(value: int) -> int:
  """The value of the first process, a bool or a whole number, in all of them; each waits for the others."""
  if jax.process_count() == 1:
    return value
  return type(value)(multihost_utils.broadcast_one_to_all(np.asarray(value)))


class StopTogether(Stop):
  """Lets SIGTERM, to any process of the run, stop all of them after the same step; all of them ask equally often.

  Args:
    alone: what could stop this process alone before they were joined; its signals count as SIGTERM now.
  """

  def __init__(self, alone: Stop):
    super().__init__(alone.again, alone.once_saved)
    self._alone = alone
    # JAX took over the handler of SIGTERM when the processes were joined.
    alone.hand_over(signal.SIGTERM)
    self._asked = 0

  def release(self, writing: Callable[[], bool]) -> None:
    """See `Stop`; a second signal, which ends this process alone, gives the same advice on how to go on."""
    super().release(writing)
    self._alone.again = self.again

  def requested(self) -> int | None:
    """SIGTERM when all processes are to stop here."""
    self._asked += 1
    return signal.SIGTERM if multihost_utils.reached_preemption_sync_point(self._asked) else None


def is_one_of_several() -> bool:
  """Whether other processes share the run."""
  return jax.distributed.is_initialized() and jax.process_count() > 1


def leave(code: int, said: str = "") -> None:
  """After a fault, prints `said` and ends this process at once if it is one of several; else does nothing.

  JAX would let it wait at the end for the others, which wait for it in the middle; its end stops them.
  """
  if is_one_of_several():
    print(end=said, file=sys.stderr, flush=True)
    sys.stdout.flush()
    os._exit(code)


def _check(given: Mapping[str, str | int | None]) -> None:
  missing = [name for name, value in given.items() if value is None]
  if missing:
    raise InputError(
      f"coordinator, processes and process go together, but {', '.join(missing)} is missing; give "
      "--coordinator=HOST:PORT of the first process, --processes=their number, and --process=the number of each, from 0"
    )
  host, _, port = str(given["coordinator"]).rpartition(":")
  if not host or not port.isdecimal() or not 0 < int(port) < 65536:
    raise InputError(f"coordinator must be HOST:PORT of the first process, got {given['coordinator']!r}")
  if given["processes"] < 1 or not 0 <= given["process"] < given["processes"]:
    raise InputError(
      f"process must be from 0 to one less than processes, got process={given['process']} of {given['processes']}"
    )


def _check_launcher(name: Launcher, environ: Mapping[str, str]) -> None:
  """Raises InputError where JAX could not find out the rest by itself."""
  remedy = "give --coordinator, --processes and --process, or --processes=1 to run this process alone"
  if name == "Open MPI" and "OMPI_MCA_orte_hnp_uri" not in environ:
    raise InputError(f"this Open MPI does not say where the first process is; {remedy}")
  if name == "Kubernetes" and importlib.util.find_spec("kubernetes") is None:
    raise InputError(f"an indexed job of Kubernetes needs the package kubernetes: pip install it, or {remedy}")


def say(text: str) -> None:
  """One line for the user, beside the progress bars."""
  Console(stderr=True, highlight=False, quiet=is_silent()).print(text, soft_wrap=True)


def is_silent() -> bool:
  """Whether this process shows nothing: of several that share a run, the first alone does."""
  return jax.process_index() > 0

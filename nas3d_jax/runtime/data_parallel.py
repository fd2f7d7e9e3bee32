"""The devices that share a batch: each runs the program of one device on its own part of it.

A program is `jit` of `shard_map`, so that each device keeps the batch-1 program: nothing turns into a grouped
convolution, and nothing is communicated but what the program itself reduces.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

import jax
import numpy as np
from jax.flatten_util import ravel_pytree
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from nas3d_jax.errors import InputError
from nas3d_jax.validation import is_whole

AXIS = "data"
WHOLE, SPLIT = PartitionSpec(), PartitionSpec(AXIS)
"""How an array lies on the devices: the same on each, or a part of its first axis on each."""


@dataclasses.dataclass(frozen=True)
class Replicas:
  """The devices of a run; `ONE_DEVICE` is a single one, whose programs are plain `jit`.

  Attributes:
    mesh: of all devices, in one axis named "data"; None for a single one.
    process: number of this process among those that share the run.
    processes: how many do; each has as many of the devices.
  """

  mesh: Mesh | None = None
  process: int = 0
  processes: int = 1

  @classmethod
  def of(cls, devices: int | None = None) -> Replicas:
    """Devices of this run: the first so many of those visible to all processes together.

    Args:
      devices: their number; None means all.

    Raises:
      InputError: there are not so many, or not all are taken although there are several processes, or one process has
        more of them than another.
    """
    visible = jax.devices()
    count = len(visible) if devices is None else devices
    if not is_whole(count, 1) or count > len(visible):
      raise InputError(f"devices must be from 1 to {len(visible)}, those that JAX sees, got {devices!r}")
    processes = jax.process_count()
    if processes > 1 and count != len(visible):
      raise InputError(
        f"devices must be {len(visible)}, all that the {processes} processes have, got {devices}; leave it out, or "
        "start fewer processes"
      )
    owners = [device.process_index for device in visible[:count]]
    if len({owners.count(process) for process in range(processes)}) > 1:
      raise InputError(f"each of the {processes} processes must have as many devices, got {owners}; start them alike")
    mesh = Mesh(np.asarray(visible[:count]), (AXIS,)) if count > 1 else None
    return cls(mesh, jax.process_index(), processes)

  @property
  def count(self) -> int:
    """Number of devices."""
    return 1 if self.mesh is None else self.mesh.size

  def jit(self, function: Callable, in_specs: Any, out_specs: Any, **options: Any) -> Callable:
    """The function on each device, on its part of what is `SPLIT` and the whole of what is `WHOLE`.

    Args:
      function: of one device; `mean`, `sum` and `own_key` are for use in it.
      in_specs: `WHOLE` or `SPLIT` of each argument.
      out_specs: of the result.
      **options: of `jax.jit`.
    """
    if self.mesh is None:
      return jax.jit(function, **options)
    # Without the check of what varies: it would insert reductions of its own into gradients.
    mapped = jax.shard_map(function, mesh=self.mesh, in_specs=in_specs, out_specs=out_specs, check_vma=False)
    return jax.jit(mapped, **options)

  def mean(self, tree: Any) -> Any:
    """The mean over the devices of a tree of float32 arrays, in one reduction; inside a program of `jit`."""
    if self.mesh is None:
      return tree
    vector, restore = ravel_pytree(tree)
    return restore(jax.lax.pmean(vector, AXIS))

  def sum(self, value: jax.Array) -> jax.Array:
    """The sum over the devices; inside a program of `jit`."""
    return value if self.mesh is None else jax.lax.psum(value, AXIS)

  def own_key(self, key: jax.Array) -> jax.Array:
    """A random key for each device, from one for all; inside a program of `jit`."""
    return key if self.mesh is None else jax.random.fold_in(key, jax.lax.axis_index(AXIS))

  def replicate(self, tree: Any) -> Any:
    """Arrays, typed random keys and numbers that are equal in all processes, as arrays that each device holds whole."""
    if self.mesh is None:
      return tree
    sharding = NamedSharding(self.mesh, WHOLE)

    def put(leaf: Any) -> jax.Array:
      if isinstance(leaf, jax.Array) and leaf.sharding.is_equivalent_to(sharding, leaf.ndim):
        return leaf
      if isinstance(leaf, jax.Array) and jax.dtypes.issubdtype(leaf.dtype, jax.dtypes.prng_key):
        return jax.random.wrap_key_data(put(jax.random.key_data(leaf)), impl=jax.random.key_impl(leaf))
      # By way of the host: an array of one process cannot become one of all.
      return jax.make_array_from_process_local_data(sharding, np.asarray(leaf))

    return jax.tree.map(put, tree)

  def split(self, tree: Any) -> Any:
    """This process's rows of arrays [rows, ...] as arrays whose rows lie on the devices of all processes in turn."""
    if self.mesh is None:
      return tree
    sharding = NamedSharding(self.mesh, SPLIT)
    return jax.tree.map(lambda rows: jax.make_array_from_process_local_data(sharding, np.asarray(rows)), tree)


ONE_DEVICE = Replicas()

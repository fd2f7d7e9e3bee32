"""Reads the values and tensors of a file that `torch.save` wrote, without PyTorch and without running what is in it.

Such a file is a zip archive of `<name>/data.pkl`, a pickle of all but the numbers, and `<name>/data/<key>`, the numbers
of each storage, neither compressed. Everything that the file says of itself is compared with what is there.
"""

from __future__ import annotations

import math
import os
import stat
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from nas3d_jax.convert.plain_pickle import Name, plain_values
from nas3d_jax.errors import InputError, Unreadable
from nas3d_jax.files.atomic import reading_remedy
from nas3d_jax.validation import is_whole

RESAVE = 'torch.save({"state_dict": net.state_dict()}, "new.pt")'
_RESAVE_OLD = 'torch.save(torch.load("old.pt", weights_only=True), "new.pt")'
# The first number of PyTorch's files of before version 1.6, as a pickle, after its protocol.
_OLD = b"\x8a\nl\xfc\x9cF\xf9 j\xa8P\x19."
_MOST_ENTRIES, _MOST_AXES = 1 << 17, 8
_STORAGES: Mapping[str, str] = {
  "torch.FloatStorage": "f4", "torch.DoubleStorage": "f8", "torch.HalfStorage": "f2", "torch.BFloat16Storage": "u2",
  "torch.LongStorage": "i8", "torch.IntStorage": "i4", "torch.ShortStorage": "i2", "torch.CharStorage": "i1",
  "torch.ByteStorage": "u1", "torch.BoolStorage": "?",
}  # fmt: skip
_BFLOAT16 = "torch.BFloat16Storage"


def read_torch_file(path: str | Path) -> Any:
  """The value that `torch.save` wrote.

  Args:
    path: the file, of PyTorch 1.6 or newer.

  Returns:
    Plain values, see `plain_values`; a tensor is an array of NumPy that shares its memory with those of the same
    storage, one of bfloat16 is float32.

  Raises:
    InputError: it cannot be read, is of another kind or an older PyTorch, damaged, or holds something else than tensors
      and plain values. Names the file and the remedy.
  """
  path = Path(path)
  try:
    # Before it is opened: a pipe without a writer would wait for ever.
    if not stat.S_ISREG(path.stat().st_mode):
      raise InputError(f"{path} is no file; give --from one that torch.save wrote")
    with path.open("rb") as file:
      size, start = os.fstat(file.fileno()).st_size, file.read(len(_OLD) + 2)
      if start[2:] == _OLD:
        raise InputError(f"{path} is in the format of PyTorch before 1.6; write it anew in a newer one: {_RESAVE_OLD}")
      if not start.startswith(b"PK"):
        raise InputError(f"{path} is not of torch.save, whose files are zip archives; give one that is")
      file.seek(0)
      with zipfile.ZipFile(file) as archive:
        return _Archive(archive, size).value()
  except InputError as error:
    text = str(error)
    raise InputError(text if text.startswith(str(path)) else f"{path} cannot be converted: {text}") from None
  except OSError as error:
    missing = isinstance(error, (FileNotFoundError, NotADirectoryError))
    remedy = "is --from mistyped?" if missing else f"{reading_remedy(error)} (--from)"
    raise Unreadable(f"{path} cannot be read ({error.strerror}); {remedy}") from error
  except (zipfile.BadZipFile, NotImplementedError, RuntimeError, EOFError, ValueError, OverflowError) as error:
    raise InputError(f"{path} is damaged or cut short ({error!s:.200}); copy or save it again") from error


class _Archive:
  """The entries of an archive, checked."""

  def __init__(self, archive: zipfile.ZipFile, size: int):
    self._archive, self._storages = archive, {}
    self._entries = {info.filename: info for info in archive.infolist()}
    self._check(size)
    pickles = [name for name in self._entries if name.count("/") == 1 and name.endswith("/data.pkl")]
    if len(pickles) != 1:
      raise InputError(f"it has {len(pickles)} entries <name>/data.pkl, not one; give a file that torch.save wrote")
    self._root = pickles[0].removesuffix("/data.pkl")
    if any(name.startswith(f"{self._root}/code/") for name in self._entries):
      raise InputError(f"it is a TorchScript program; save its parameters alone: {RESAVE}")
    order = self._entries.get(f"{self._root}/byteorder")
    self._order = ">" if order is not None and order.file_size < 9 and archive.read(order) == b"big" else "<"

  def _check(self, size: int) -> None:
    infos = self._archive.infolist()
    if len(infos) > _MOST_ENTRIES or len(infos) != len(self._entries):
      raise InputError(f"it has {len(infos)} entries, {len(self._entries)} of them with different names")
    for info in infos:
      name = info.filename
      if name != info.orig_filename or "\\" in name or name.startswith("/") or ".." in name.split("/"):
        raise InputError(f"it has an entry of the name {info.orig_filename!r:.100}, which torch.save does not write")
      if info.compress_type != zipfile.ZIP_STORED or info.file_size != info.compress_size or info.flag_bits & 1:
        raise InputError(f"its entry {name!r:.100} is compressed or encrypted, which torch.save does not do")
    if (total := sum(info.file_size for info in infos)) > size:
      raise InputError(f"its entries claim {total} bytes, more than the file has ({size})")

  def value(self) -> Any:
    """The value of the pickle."""
    content = self._archive.read(f"{self._root}/data.pkl")
    return plain_values(content, call=self._call, persistent=self._storage)

  def _call(self, name: Name, arguments: tuple[Any, ...]) -> Any:
    if name.text == "collections.OrderedDict" and not arguments:
      return {}
    if name.text == "torch._utils._rebuild_tensor_v2" and len(arguments) in (6, 7):
      return _tensor(*arguments[:4])
    if name.text == "torch._utils._rebuild_parameter" and len(arguments) == 3 and isinstance(arguments[0], np.ndarray):
      return arguments[0]
    raise InputError(
      f"it asks for {name.text!r:.100}, which is neither a tensor nor a plain value, and nothing of it was run; save "
      f"the parameters alone: {RESAVE}"
    )

  def _storage(self, given: Any) -> NDArray:
    """The numbers of a storage, flat; `given` is its persistent id."""
    kind, storage, key, _, count = given if isinstance(given, tuple) and len(given) == 5 else (None,) * 5
    known = kind == "storage" and isinstance(storage, Name) and isinstance(key, str) and is_whole(count, 0)
    if not known or storage.text not in _STORAGES:
      what = storage.text if isinstance(storage, Name) else type(given).__name__
      raise InputError(f"it has numbers of the kind {what!r:.100}; known are {', '.join(_STORAGES)}")
    name, dtype = f"{self._root}/data/{key}", np.dtype(_STORAGES[storage.text]).newbyteorder(self._order)
    info = self._entries.get(name)
    if info is None or info.file_size != count * dtype.itemsize:
      there = "is not there" if info is None else f"has {info.file_size} bytes"
      raise InputError(f"its entry {name!r:.100} must have {count} numbers of {dtype.itemsize} bytes, but {there}")
    if (key, storage) not in self._storages:
      numbers = np.frombuffer(self._archive.read(info), np.uint8 if storage.text == "torch.BoolStorage" else dtype)
      if storage.text == _BFLOAT16:
        numbers = (numbers.astype(np.uint32) << 16).view(np.float32)
      self._storages[key, storage] = numbers
    return self._storages[key, storage]


def _tensor(storage: Any, offset: Any, size: Any, stride: Any) -> NDArray:
  """The tensor of a storage, an array that shares its memory."""
  lengths = [offset, *size, *stride] if isinstance(size, tuple) and isinstance(stride, tuple) else [None]
  if not isinstance(storage, np.ndarray) or storage.ndim != 1 or not all(is_whole(n, 0) for n in lengths):
    raise InputError("a tensor must have a storage, and whole numbers of at least 0 as offset, lengths and strides")
  if len(size) != len(stride) or len(size) > _MOST_AXES:
    raise InputError(f"a tensor must have as many strides as axes, up to {_MOST_AXES}, got {len(stride)}, {len(size)}")
  last = offset + sum((n - 1) * step for n, step in zip(size, stride, strict=True))
  # An axis of stride 0 repeats numbers, by which a small file would become any size.
  if math.prod(size) > storage.size or (math.prod(size) and last >= storage.size):
    raise InputError(f"a tensor of {size!r:.60} with strides {stride!r:.60} reaches out of its {storage.size} numbers")
  if not math.prod(size):
    return np.zeros(size, storage.dtype)
  steps = [step * storage.itemsize for step in stride]
  return np.lib.stride_tricks.as_strided(storage[offset:], size, steps, writeable=False)

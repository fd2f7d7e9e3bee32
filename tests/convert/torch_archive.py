"""Writes files as `torch.save` does, without PyTorch: the pickle by hand, the archive by `zipfile`."""

import io
import pickle
import struct
import zipfile
from collections import OrderedDict

import numpy as np

STORAGES = {"f4": "FloatStorage", "f2": "HalfStorage", "f8": "DoubleStorage", "i8": "LongStorage"}


class _Stand:
  """A name of PyTorch in a pickle."""

  def __init__(self, module, name):
    self.module, self.name = module, name


class _Call:
  def __init__(self, called, arguments):
    self.called, self.arguments = called, arguments


class _Storage:
  def __init__(self, kind, key, count):
    self.id = ("storage", _Stand("torch", kind), key, "cpu", count)


class _Pickler(pickle._Pickler):
  """Python's own, in Python, which spells names and storages as PyTorch does."""

  def persistent_id(self, value):
    return value.id if isinstance(value, _Storage) else None

  def save(self, value, save_persistent_id=True):
    if isinstance(value, _Stand):
      self.write(b"c" + f"{value.module}\n{value.name}\n".encode())
    elif isinstance(value, _Call):
      self.save(value.called)
      self.save(value.arguments)
      self.write(b"R")
    else:
      super().save(value, save_persistent_id)


def tensor(kind, key, count, offset, size, stride):
  arguments = (_Storage(kind, key, count), offset, size, stride, False, OrderedDict())
  return _Call(_Stand("torch._utils", "_rebuild_tensor_v2"), arguments)


def pickled(value, storages, protocol=2):
  """The pickle of nested dictionaries, in which arrays become tensors; adds the bytes of each to `storages`."""

  def stand_in(value):
    if isinstance(value, dict):
      return {key: stand_in(entry) for key, entry in value.items()}
    if not isinstance(value, np.ndarray):
      return value
    key, array = str(len(storages)), np.ascontiguousarray(value)
    storages[key] = array.tobytes()
    strides = tuple(step // array.itemsize for step in np.reshape(array, value.shape).strides)
    return tensor(STORAGES[array.dtype.str[1:]], key, array.size, 0, value.shape, strides)

  file = io.BytesIO()
  _Pickler(file, protocol).dump(stand_in(value))
  return file.getvalue()


def write_archive(path, content, storages, *, root="model", compression=zipfile.ZIP_STORED, others=()):
  with zipfile.ZipFile(path, "w", compression) as archive:
    archive.writestr(f"{root}/data.pkl", content)
    for key, numbers in storages.items():
      archive.writestr(f"{root}/data/{key}", numbers)
    for name in others:
      archive.writestr(name, b"")
  return path


def save(path, value, *, protocol=2, **how):
  storages = {}
  content = pickled(value, storages, protocol)
  return write_archive(path, content, storages, **how)


def short(text):
  """A text as the pickle has it."""
  return b"X" + struct.pack("<I", len(text)) + text.encode()

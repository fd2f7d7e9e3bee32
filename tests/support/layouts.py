"""Made-up cases in each layout that is read: the same heads and tumours, called and labelled as each data set does."""

import json

import nibabel as nib
import numpy as np

from nas3d_jax.data.phantom import phantom_case

LAYOUTS = ("brats2019", "brats2023", "brats2024", "decathlon", "nnunet")
# Of necrosis, oedema and rim, which are 1, 2, 4 in phantoms.
LABELS = {
  "brats2019": (1, 2, 4), "brats2023": (1, 2, 3), "brats2024": (1, 2, 3), "decathlon": (2, 1, 3), "nnunet": (2, 1, 3)
}
CAVITY = 4  # of brats2024
PHANTOM = ("flair", "t1", "t1ce", "t2")
SUFFIXES = {
  "brats2019": dict(zip(PHANTOM, ("_flair", "_t1", "_t1ce", "_t2"), strict=True)),
  "brats2023": dict(zip(PHANTOM, ("-t2f", "-t1n", "-t1c", "-t2w"), strict=True)),
}
CHANNELS = {
  "decathlon": dict(zip(PHANTOM, ("FLAIR", "T1w", "t1gd", "T2w"), strict=True)),
  "nnunet": dict(zip(PHANTOM, ("Flair", "T1", "T1ce", "T2"), strict=True)),
}
# As nnU-Net's own conversion of BraTS orders its channels; the decathlon's order is that of phantoms.
ORDERS = {"nnunet": ("t1", "t1ce", "t2", "flair")}


def write_layout(name, folder, cases, shape, *, seed=0, labels=True, cavity=True, order=None):
  """Writes made-up cases in a layout; case i is the phantom of (seed, i), whatever the layout.

  Args:
    name: one of LAYOUTS.
    folder: where to; becomes a `data_dir`.
    cases: how many.
    shape: (D, H, W), 16 at least.
    seed: of the phantoms.
    labels: whether there are segmentations; without, the shared-folder layouts have imagesTs alone.
    cavity: whether cases of brats2024 have label 4: a block of brain at the lowest corner that is no tumour.
    order: order of the channels in the layouts that have one, as names of PHANTOM.

  Returns:
    Names of the cases.
  """
  names = [_case_name(name, i) for i in range(cases)]
  order = order or ORDERS.get(name, PHANTOM)
  for i, case in enumerate(names):
    image, truth = phantom_case((seed, i), shape)
    truth = relabelled(truth, name)
    if name == "brats2024" and cavity:
      truth = with_cavity(image, truth)
    channels = {modality: image[..., k] for k, modality in enumerate(PHANTOM)}
    truth = truth if labels else None
    if name.startswith("brats"):
      _write_folder(folder / case, case, channels, truth, "brats2019" if name == "brats2019" else "brats2023")
    else:
      _write_shared(name, folder, case, [channels[modality] for modality in order], truth)
  if not name.startswith("brats"):
    (folder / "dataset.json").write_text(json.dumps(_said(name, order, names if labels else [])))
  return names


def relabelled(truth, name):
  """The labels of a phantom as another data set numbers them."""
  table = np.zeros(256, np.uint8)
  table[[1, 2, 4]] = LABELS[name]
  return table[truth]


def with_cavity(image, truth):
  """Two voxels a side of brain outside the tumour become the cavity, at the first place that has room."""
  free = (image != 0).all(-1) & (truth == 0)
  room = np.lib.stride_tricks.sliding_window_view(free, (2, 2, 2)).all((3, 4, 5))
  x, y, z = np.argwhere(room)[0]
  truth = truth.copy()
  truth[x : x + 2, y : y + 2, z : z + 2] = CAVITY
  return truth


def save(path, data):
  """Writes a volume on the grid of BraTS: 1 mm, left and backward."""
  path.parent.mkdir(parents=True, exist_ok=True)
  affine = np.diag([-1.0, -1.0, 1.0, 1.0])
  affine[1, 3] = data.shape[1] - 1
  nib.save(nib.Nifti1Image(data, affine), path)


def _case_name(name, i):
  return {
    "brats2019": f"BraTS19_P_{i + 1}", "brats2023": f"BraTS-GLI-{i:05d}-000", "brats2024": f"BraTS-GLI-{i:05d}-101",
    "decathlon": f"BRATS_{i + 1:03d}", "nnunet": f"BraTS_{i + 1:04d}",
  }[name]  # fmt: skip


def _write_folder(folder, case, channels, truth, naming):
  for modality, data in channels.items():
    save(folder / f"{case}{SUFFIXES[naming][modality]}.nii.gz", data)
  if truth is not None:
    save(folder / f"{case}{'_seg' if naming == 'brats2019' else '-seg'}.nii.gz", truth)


def _write_shared(name, folder, case, volumes, truth):
  part = "Tr" if truth is not None else "Ts"
  images = folder / f"images{part}"
  if name == "decathlon":
    save(images / f"{case}.nii.gz", np.stack(volumes, -1))
  else:
    for k, data in enumerate(volumes):
      save(images / f"{case}_{k:04d}.nii.gz", data)
  if truth is not None:
    save(folder / "labelsTr" / f"{case}.nii.gz", truth)


def _said(name, order, names):
  channels = {str(k): CHANNELS[name][modality] for k, modality in enumerate(order)}
  if name == "nnunet":
    labels = {"background": 0, "whole tumor": [1, 2, 3], "tumor core": [2, 3], "enhancing tumor": 3}
    regions = dict(labels=labels, regions_class_order=[1, 2, 3])
    return dict(channel_names=channels, **regions, numTraining=len(names), file_ending=".nii.gz")
  labels = {"0": "background", "1": "edema", "2": "non-enhancing tumor", "3": "enhancing tumour"}
  training = [{"image": f"./imagesTr/{n}.nii.gz", "label": f"./labelsTr/{n}.nii.gz"} for n in names]
  return dict(name="BRATS", modality=channels, labels=labels, numTraining=len(names), training=training, test=[])

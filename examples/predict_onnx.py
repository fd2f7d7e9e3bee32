"""Labels of a case by an exported network: predict_onnx.py EXPORTED OUT.nii.gz IMAGE..., one a modality, in order."""

import itertools
import json
import pathlib
import sys

import nibabel as nib
import numpy as np
import onnxruntime

folder, out, *images = sys.argv[1:]
about = json.loads(pathlib.Path(folder, "metadata.json").read_text())
network, normalize = (onnxruntime.InferenceSession(f"{folder}/{name}.onnx") for name in ("network", "normalize"))
# The images, turned to the orientation of the training, and normalised.
files, geometry = [nib.load(image) for image in images], about["geometry"]
own = nib.io_orientation(files[0].affine)
axes = nib.orientations.axcodes2ornt(geometry["orientation"]) if geometry else own
turned = [file.as_reoriented(nib.orientations.ornt_transform(own, axes)) for file in files]
if geometry and not np.allclose(turned[0].header.get_zooms()[:3], geometry["spacing"], rtol=1e-3):
  sys.exit(f"voxels must be of {geometry['spacing']} mm: resample the images, or use python -m launch predict")
volume = np.concatenate([f.get_fdata(dtype=np.float32).reshape(*f.shape[:3], -1) for f in turned], axis=-1)
image = normalize.run(None, {"volume": volume})[0]
# As few patches as cover the brain along each axis, evenly spaced; where they overlap, the mean.
brain, sizes, starts = (image != 0).any(-1), about["patch_size"], []
padded = np.pad(image, [*((p, p) for p in sizes), (0, 0)])
for p, where in zip(sizes, np.nonzero(brain), strict=True):
  n, count = np.ptp(where) + 1, (np.ptp(where) + p) // p
  shared = (count * p - n) // max(count - 1, 1)
  first = where.min() + p - (count * p - shared * (count - 1) - n) // 2
  starts.append([slice(s, s + p) for s in first + np.arange(count) * (p - shared)])
total, times = np.zeros((*padded.shape[:3], len(about["regions"])), np.float32), np.zeros(padded.shape[:3], np.float32)
for place in itertools.product(*starts):
  total[place] += network.run(None, {"image": padded[place][None]})[0][0]
  times[place] += 1
inside = tuple(slice(p, p + n) for p, n in zip(sizes, brain.shape, strict=True))
probabilities = (total / np.maximum(times, 1)[..., None])[inside] * brain[..., None]
# Labels painted one over the other, or the most probable one; turned back.
labels = np.zeros(brain.shape, np.uint8)
for index, region in enumerate(about["regions"]):
  wins = probabilities.argmax(-1) == index if about["exclusive"] else True
  labels[(probabilities[..., index] >= 0.5) & wins] = region["paint"]
labels = nib.orientations.apply_orientation(labels, nib.orientations.ornt_transform(axes, own))
nib.save(nib.Nifti1Image(labels, files[0].affine), out)

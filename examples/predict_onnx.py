"""Labels of a case by an exported network: predict_onnx.py EXPORTED OUT.nii.gz IMAGE..., one a modality, in order."""
import itertools, json, sys

import nibabel as nib, numpy as np, onnxruntime

folder, out, *images = sys.argv[1:]
about, files = json.load(open(f"{folder}/metadata.json")), [nib.load(image) for image in images]
network, normalize = (onnxruntime.InferenceSession(f"{folder}/{name}.onnx") for name in ("network", "normalize"))
spacing, own = (about["geometry"] or {}).get("spacing"), nib.io_orientation(files[0].affine)
axes = nib.orientations.axcodes2ornt(about["geometry"]["orientation"]) if spacing else own
turned = [file.as_reoriented(nib.orientations.ornt_transform(own, axes)) for file in files]
if spacing and not np.allclose(turned[0].header.get_zooms()[:3], spacing, rtol=1e-3):
  sys.exit(f"voxels must be of {spacing} mm: resample the images, or use python -m launch predict")
volume = np.concatenate([file.get_fdata(dtype=np.float32).reshape(*file.shape[:3], -1) for file in turned], axis=-1)
(image,), patch, regions = normalize.run(None, {"volume": volume}), about["patch_size"], about["regions"]
brain = (image != 0).any(-1)
padded, starts = np.pad(image, [*((p, p) for p in patch), (0, 0)]), []
for p, where in zip(patch, np.nonzero(brain)):  # as few patches as cover the brain along an axis, evenly spaced
  n, count = np.ptp(where) + 1, -(-(np.ptp(where) + 1) // p)
  shared = (count * p - n) // max(count - 1, 1)
  starts.append([where.min() + p + k * (p - shared) - (count * p - shared * (count - 1) - n) // 2 for k in range(count)])
total = np.zeros((*padded.shape[:3], len(regions) + 1), np.float32)  # the last channel counts the patches
for start in itertools.product(*starts):
  own_patch = tuple(slice(s, s + p) for s, p in zip(start, patch))
  total[own_patch] += np.pad(network.run(None, {"image": padded[own_patch][None]})[0][0], [(0, 0)] * 3 + [(0, 1)], constant_values=1)
total = total[tuple(slice(p, p + n) for p, n in zip(patch, brain.shape))]
probabilities, labels = total[..., :-1] / np.maximum(total[..., -1:], 1) * brain[..., None], np.zeros(brain.shape, np.uint8)
for index, region in enumerate(regions):  # of regions that exclude each other, the most probable
  first = probabilities.argmax(-1) == index if about["exclusive"] else True
  labels[(probabilities[..., index] >= 0.5) & first] = region["paint"]
labels = nib.orientations.apply_orientation(labels, nib.orientations.ornt_transform(axes, own))
nib.save(nib.Nifti1Image(labels, files[0].affine), out)

# %% [markdown]
# # Restore a checkpoint and serve it
#
# From a checkpoint to one function volume -> labels. What is compiled is the forward pass of one patch, so cases of
# any size share it: `predict_volume` cuts them into patches and puts these together again. The checkpoint is the one
# that comes with the library; its path may as well be a run of your own, `run/train/0`.

# %%
import numpy as np

import nas3d_jax
from nas3d_jax.inference.volume import make_predict_step

CHECKPOINT = "pretrained/task04_hippocampus"


def load(checkpoint, patch_size=None):
  """A function: raw intensities [D, H, W, modality] in the orientation of training -> labels, uint8 [D, H, W].

  patch_size: that of the training, which suits best, unless another is given.
  """
  net, variables, metadata = nas3d_jax.restore(checkpoint)
  intensities = metadata.intensities
  step = make_predict_step(net, xi=metadata.xi, lam=metadata.lam)  # jitted; compiled at the first volume
  how = {"patch_size": patch_size or metadata.patch_size, "intensities": intensities, "step": step}

  def segment(volume):
    return metadata.schema.decode(nas3d_jax.predict_volume(net, variables, volume, **how))

  return segment, step


# %%
segment, compiled = load(CHECKPOINT, patch_size=16)  # small, for a try
random = np.random.default_rng(0)
labels = {}
for shape in ((20, 24, 18), (16, 30, 21), (33, 17, 25)):
  labels[shape] = segment(random.uniform(1, 100, (*shape, 1)).astype(np.float32))
  print(shape, labels[shape].shape, labels[shape].dtype)
print(compiled._cache_size(), "compiled program")

"""All stages of the paper's comparison as one command that knows what is done already.

Rooms: `run` is the way in; `config` (what is compared), `inputs` (data set and unseen cases), `stages` (searches,
trainings, predictions and so on, in order), `status` (how far each is, by what is on disk), `costs` (parameters,
operations, memory, time), `control` (searched against random), `supernet_ranking` (what supernets say of the control).
"""

from nas3d_jax.lazy import modules_of

__getattr__ = modules_of(__name__)

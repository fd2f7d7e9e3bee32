"""A trained network that leaves the program: a folder that JAX, or any runtime of ONNX, runs without its Python code.

Rooms: `write` is the way in, `config` (what to export), `exported` (reads what was written), `contents` (names and
metadata of the folder), `onnx_graph` (nodes of a graph), `onnx_networks` (the networks in them), `onnx_normalization`
(a volume's intensities in them).
"""

from nas3d_jax.lazy import modules_of

__getattr__ = modules_of(__name__)

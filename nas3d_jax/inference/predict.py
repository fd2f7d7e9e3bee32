"""Label volumes of whole cases, from a folder of NIfTI files to a folder of NIfTI files."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from nas3d_jax.data.cases.case_files import CaseFiles, Fault
from nas3d_jax.data.cases.detect_schema import find_schema, for_model
from nas3d_jax.data.cases.find_and_read import find_cases
from nas3d_jax.errors import InputError
from nas3d_jax.files.atomic import writing
from nas3d_jax.files.run_layout import TRAIN_FOLDERS
from nas3d_jax.inference.config import PredictConfig
from nas3d_jax.inference.cross_validation import cross_validation_jobs
from nas3d_jax.inference.ensemble import Ensemble, restore_ensemble
from nas3d_jax.inference.jobs import Job, PredictSummary, predict_jobs
from nas3d_jax.inference.prediction_folder import PredictionFolder
from nas3d_jax.inference.shards import Share, writing_to
from nas3d_jax.models.search_space import CustomOperation
from nas3d_jax.runtime.distributed import say


def predict_cases(config: PredictConfig, *, operations: Sequence[CustomOperation] = ()) -> PredictSummary:
  """Predicts cases of a folder, as `<case>.nii.gz` in each case's own geometry (section 2.3 of the paper).

  A region holds where its probability, the mean over the checkpoints, is at least one half; labels are painted in the
  schema's order; what is zero in every modality is background. A case of another orientation or voxel size than the
  training data is brought to those, and its probabilities back to its own grid. A case may lack modalities where all
  networks were trained with `modality_dropout`; they get 0 for it. A second run goes on where the first
  stopped. With `config.shard` it does its part, into one folder with the other shards. The next case is read and the
  last one written while one is computed. Progress goes to stderr.

  Args:
    config: what to predict.
    operations: of the user's own, where a network has some.

  Raises:
    InputError: a checkpoint cannot be restored or does not go with the others, a fold of a cross-validation saw its
      cases, a case is not there, `out` holds other predictions, or another process writes to it; or, after all other
      cases are done, some cannot be used: all are listed, by name, reason and remedy.
  """
  if config.cross_validation:
    root = Path(config.workdir)
    jobs, settings, faults = cross_validation_jobs(
      root, root / TRAIN_FOLDERS[config.network], config.data_dir, only=config.fold, cases=config.cases,
      patch_size=config.patch_size, devices=config.devices, operations=operations,
    )
  else:
    ensemble = restore_ensemble(config.runs, config.patch_size, devices=config.devices, operations=operations)
    found, faults = _find(config, ensemble)
    jobs, settings = [Job(files, ensemble) for files in found], ensemble.settings
  settings = {**settings, "inference": config.choices.to_dict(), "probabilities": config.probabilities}
  names, share = [job.files.name for job in jobs], None
  if (shard := config.part) is not None:
    everything = {*names, *(fault.case for fault in faults)}
    share = Share(shard, shard.of(everything))
    jobs = [job for job in jobs if job.files.name in share.cases]
    faults = [fault for fault in faults if fault.case in share.cases]
    if share.cases:
      say(f"shard {shard}: {len(share.cases)} of {len(everything)} cases; the others are for the other shards")
    else:
      say(f"shard {shard} has nothing to do: there are {len(everything)} cases, fewer than shards")
  with writing_to(Path(config.out), shard), writing(config.out):
    folder = PredictionFolder(config.out, settings=settings, cases=names, overwrite=config.overwrite, share=share)
    return predict_jobs(jobs, folder, choices=config.choices, probabilities=config.probabilities, faults=faults)


def _find(config: PredictConfig, ensemble: Ensemble) -> tuple[list[CaseFiles], list[Fault]]:
  """The cases that are asked for, with the model's modalities, and what is wrong with others of them."""
  model, incomplete = ensemble.schema, ensemble.incomplete
  found = find_schema(config.data_dir, config.schema, labels=False, like=model)
  schema = for_model(found, model, incomplete=incomplete)
  # A prediction does not read the truth: a damaged one must not keep a case from it.
  found, faults = find_cases(config.data_dir, schema, labels=False, incomplete=incomplete)
  if config.cases is not None:
    wanted = set(config.cases)
    missing = sorted(wanted - {files.name for files in found} - {fault.case for fault in faults})
    if missing:
      raise InputError(f"there is no case {', '.join(missing)} in {config.data_dir}; name cases that are there")
    found = [files for files in found if files.name in wanted]
    faults = [fault for fault in faults if fault.case in wanted]
  return found, faults

"""Lesion-wise scores against hand-worked cases and a slow version that follows the definition word by word."""

import dataclasses
import itertools

import numpy as np
import pytest

from nas3d_jax.evaluation.lesions import LesionScores, lesion_scores
from nas3d_jax.evaluation.surfaces import hausdorff95

MM = (1, 1, 1)
SHAPE = (20, 20, 60)


def cube(start, edge=4):
  """A cube of 64 voxels, or another edge, in a volume of 20 x 20 x 60."""
  mask = np.zeros(SHAPE, bool)
  mask[tuple(slice(s, s + edge) for s in start)] = True
  return mask


class CloseTo:
  """Equal but for rounding."""

  __hash__ = None

  def __init__(self, scores):
    self.scores = dataclasses.astuple(scores)

  def __eq__(self, other):
    return dataclasses.astuple(other) == pytest.approx(self.scores)

  def __repr__(self):
    return f"about {self.scores}"


A, B, C = cube((8, 8, 4)), cube((8, 8, 20)), cube((8, 8, 40))
NOTHING = np.zeros(SHAPE, bool)


@pytest.mark.parametrize(
  ("prediction", "truth", "expected"),
  [
    (NOTHING, NOTHING, LesionScores(1, 0, 0, 0, 0)),
    (A | B, A | B, LesionScores(1, 0, 2, 0, 0)),
    # One of two is missed: Dice (1 + 0) / 2, distance (0 + 374) / 2.
    (A, A | B, LesionScores(1 / 2, 187, 1, 1, 0)),
    # One too many.
    (A | B | C, A | B, LesionScores(2 / 3, 374 / 3, 2, 0, 1)),
    (NOTHING, A, LesionScores(0, 374, 0, 1, 0)),
    (A, NOTHING, LesionScores(0, 374, 0, 0, 1)),
    # 27 voxels are too few for a lesion of the truth, missed or found, but not for a false one.
    (NOTHING, cube((8, 8, 4), 3), LesionScores(1, 0, 0, 0, 0)),
    (cube((8, 8, 4), 3), cube((8, 8, 4), 3), LesionScores(1, 0, 0, 0, 0)),
    (cube((8, 8, 4), 3), NOTHING, LesionScores(0, 374, 0, 0, 1)),
  ],
)
def test_by_hand(prediction, truth, expected):
  assert lesion_scores(prediction, truth, MM) == CloseTo(expected)


def test_shifted_lesion():
  # 4 voxels wide, 1 off: 48 in common; the far face, 16 of 56 surface voxels, is 1 mm away.
  assert lesion_scores(np.roll(A, 1, 2) | B, A | B, MM) == CloseTo(LesionScores(0.875, 0.5, 2, 0, 0))
  assert lesion_scores(np.roll(A, 1, 2) | B, A | B, (1, 1, 3)).hausdorff95 == pytest.approx(1.5)


@pytest.mark.parametrize(("gap", "lesions"), [(5, 1), (6, 1), (7, 2)])
def test_dilation_joins_what_is_near(gap, lesions):
  # Each side grows by 3: a gap of 6 is closed, and one of 7 not.
  truth = A | cube((8, 8, 8 + gap))
  assert lesion_scores(NOTHING, truth, MM).missed == lesions


def test_small_parts_are_part_of_a_lesion_near_by():
  truth = A | cube((8, 8, 10), 2)
  assert lesion_scores(A, truth, MM) == CloseTo(
    LesionScores(2 * 64 / (72 + 64), hausdorff95(A, truth, MM), 1, 0, 0)
  )


def test_components_that_touch_the_dilated_lesion_belong_to_it():
  near, far = cube((8, 8, 10), 2), cube((8, 8, 12), 2)  # 2 and 4 voxels beyond the end of A
  assert lesion_scores(A | near, A, MM).false == 0
  assert lesion_scores(A | near, A, MM).dice == pytest.approx(2 * 64 / (64 + 72))
  assert lesion_scores(A | far, A, MM) == CloseTo(LesionScores(1 / 2, 187, 1, 0, 1))


def test_one_component_may_stand_for_two_lesions():
  bar = NOTHING.copy()
  bar[8:12, 8:12, 4:24] = True  # 320 voxels, from the first to the last of A and B
  expected = (hausdorff95(bar, A, MM) + hausdorff95(bar, B, MM)) / 2
  assert lesion_scores(bar, A | B, MM) == CloseTo(LesionScores(128 / 384, expected, 2, 0, 0))


def test_components_are_26_connected():
  corner = A | cube((12, 12, 8))  # they share a corner
  assert lesion_scores(corner, NOTHING, MM).false == 1


def neighbours(voxel, most):
  """Voxels that differ in at most `most` coordinates, by 1."""
  for step in itertools.product((-1, 0, 1), repeat=3):
    if 0 < sum(map(abs, step)) <= most:
      yield tuple(np.add(voxel, step).tolist())


def components(voxels):
  left, found = set(voxels), []
  while left:
    grown, new = set(), {left.pop()}
    while new:
      grown |= new
      new = {n for v in new for n in neighbours(v, 3)} & left
      left -= new
    found.append(grown)
  return found


def slowly(prediction, truth, spacing):
  """The definition on sets of voxels, lesion by lesion, in a volume without end."""

  def dilated(voxels):
    for _ in range(3):
      voxels = voxels | {n for v in voxels for n in neighbours(v, 2)}
    return voxels

  def mask(voxels):
    out = np.zeros(truth.shape, bool)
    out[tuple(np.array(sorted(voxels)).T)] = True
    return out

  truth_set, predicted = ({tuple(v) for v in np.argwhere(m).tolist()} for m in (truth, prediction))
  parts, false, dice, distance = components(predicted), set(range(len(components(predicted)))), [], []
  parts = sorted(parts, key=min)
  for zone in components(dilated(truth_set)):
    lesion = zone & truth_set
    touching = [i for i, part in enumerate(parts) if part & dilated(lesion)]
    false -= set(touching)
    if len(lesion) <= 50:
      continue
    union = set().union(*(parts[i] for i in touching))
    dice.append(2 * len(lesion & union) / (len(lesion) + len(union)))
    distance.append(hausdorff95(mask(union), mask(lesion), spacing) if union else 374)
  dice, distance = dice + [0] * len(false), distance + [374] * len(false)
  return (np.mean(dice), np.mean(distance)) if dice else (1, 0)


@pytest.mark.parametrize("seed", range(8))
def test_equals_the_definition(seed):
  random = np.random.default_rng(seed)
  spacing = (1.0, 1.3, 2.0)

  def blobs(count):
    out = np.zeros((24, 20, 30), bool)
    for start in random.integers(0, (22, 18, 28), (count, 3)):
      out[tuple(slice(s, s + n) for s, n in zip(start, random.integers(1, 7, 3), strict=True))] = True
    return out

  truth = blobs(4)
  prediction = blobs(3) | (np.roll(truth, random.integers(-2, 3, 3), (0, 1, 2)) & (random.random(truth.shape) < 0.9))
  got = lesion_scores(prediction, truth, spacing)
  assert (got.dice, got.hausdorff95) == pytest.approx(slowly(prediction, truth, spacing))

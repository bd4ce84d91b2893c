"""The commented configuration that `auditkit init` writes."""

from __future__ import annotations

__all__ = ["STARTER"]

STARTER = """\
# auditkit: run it with `auditkit run`. Paths are relative to this file; the same
# settings are options of `auditkit run`, and arguments of `auditkit.audit`.

model = "model.onnx"               # .onnx, .pt, .pt2, "package.module:factory" or "network.py:factory"
# weights = "model.safetensors"    # for a factory
data = "images"                    # a folder with a folder a class, an .npz with x and y, or "module:factory"
# labels = "labels.csv"            # for a flat folder: columns file, label
# masks = "masks"                  # where the objects are: pictures named like the images, a COCO .json, or an .npz
# ood = "other_images"             # images unlike these, for profile.ood; they need no labels
# resize = "224x224"

# How images in [0, 1] become what the network takes; the audit tells you when this looks wrong.
# input_range = "255"              # or "-1,1"
# mean = "imagenet"                # or "0.5,0.5,0.5", in units of input_range
# std = "imagenet"
# channel_order = "bgr"
# layout = "nhwc"
# outputs = "probabilities"        # or "labels", for a network that names a class and gives no scores

preset = "standard"                # smoke (a minute), standard, full
# checks = ["noise.*", "explain.saliency"]   # instead of the preset's
# limit = 500
seed = 0

# The whole confidence interval must lie on the right side; doubt does not pass.
gates = [
    "noise.gaussian/robust_accuracy@8/255 >= 0.5",
    "noise.pgd/robust_accuracy@2/255 >= 0.2",
    # {require = "patch.sticker/robust_accuracy >= 0.5", level = "warn"},
    # {require = "noise.pgd/robust_accuracy@2/255 drop <= 2%"},   # against the baseline
]
# baseline = "released"            # an earlier audit of the same images
# until_decided = true             # stop as soon as every gate is decided; with checks = [...]

# Options of checks; `auditkit checks show noise.pgd` lists them.
# [options."noise.pgd"]
# eps = ["1/255", "2/255"]
# steps = 40
"""

"""Whether labels, class names and the network's outputs count the same classes."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from torch import Tensor

from auditkit.errors import ExecutionError
from auditkit.models.base import Model
from auditkit.preflight.diagnosis import Diagnosis, info, warning
from auditkit.preflight.evidence import beats_chance, chance_agreement, share
from auditkit.samples.base import Samples

__all__ = ["accuracy_diagnoses", "check_labels", "class_diagnoses", "has_background"]

# With fewer images even a good network's interval may reach down to chance.
_ENOUGH = 50


def check_labels(samples: Samples, model: Model, label_offset: int = 0) -> None:
    """Check that every label is one of the network's outputs.

    Args:
        samples: The images, with `label_offset` added to their labels.
        model: The network.
        label_offset: The configured `--label-offset`.

    Raises:
        ExecutionError: one is not; the message names an image, and the option that helps if one does.
    """
    classes = model.info.classes
    if len(samples) == 0 or int(samples.labels.max()) < classes:
        return
    row = int(samples.labels.argmax())
    label, lowest = int(samples.labels[row]), int(samples.labels.min())
    if model.label_classes is not None:
        remedy = f"say with --classes how many there are, {label + 1} or more"
    elif classes == 1:
        remedy = "export a network with one score a class"
    elif lowest > 0 and label == classes:
        remedy = f"the labels seem to count from 1: add --label-offset {label_offset - 1}"
    else:
        remedy = "give the labels as indices of the network's outputs, from 0; see --label-offset"
    outputs = "1 output" if classes == 1 else f"{classes} outputs (labels 0 to {classes - 1})"
    raise ExecutionError(f"image {samples.ids[row]} has label {label}, but {model.info.name} has {outputs}; {remedy}")


def has_background(labels: Tensor, class_names: Sequence[str] | None, classes: int) -> bool:
    """Return whether the network has one output more than there are classes of images."""
    known = int(labels.max()) + 1 if class_names is None else len(class_names)
    return classes == known + 1


def class_diagnoses(
    labels: Tensor, predicted: Tensor, classes: int, class_names: Sequence[str] | None
) -> Iterator[Diagnosis]:
    """Report too few outputs, names that do not match the outputs, and labels (N,) of one class only."""
    if classes < 2:
        yield warning(
            "classes",
            f"The network returns {classes} score an image; whatever it is shown, its decision is class 0.",
            "export a network with one score a class",
        )
    if class_names is not None and len(class_names) != classes:
        text = f"The images name {len(class_names)} classes, the network has {classes} outputs."
        words = (
            "check that label i means output i: labels are indices into the class names, in alphabetical "
            "order for folders; a labels.csv with numbers states them exactly"
        )
        # Where the answers fit the labels, some outputs just do not occur among the images.
        yield info("classes", text) if beats_chance(predicted, labels) else warning("classes", text, words)
    if len(labels) > 1 and int(labels.min()) == int(labels.max()):
        yield info(
            "classes",
            f"All of the {len(labels)} images looked at have label {int(labels[0])}; a network that always "
            "answers so would be right, and wrong preprocessing cannot be told from right.",
            "add images of other classes",
        )


def accuracy_diagnoses(labels: Tensor, predicted: Tensor, classes: int) -> Iterator[Diagnosis]:
    """Warn of answers (N,) that are no better than chance, where there are enough images to say so."""
    n = len(labels)
    varied = n > 0 and int(labels.min()) != int(labels.max())
    if n < _ENOUGH or classes < 2 or not varied or beats_chance(predicted, labels):
        return
    right = int((predicted == labels).sum())
    yield warning(
        "accuracy",
        f"The network is right for {share(right, n)}; the same answers dealt to the images at random would "
        f"be right for {chance_agreement(predicted, labels):.1%}. No other input range, normalisation, "
        "channel order or label offset was clearly better. A robustness audit of such a network says little.",
        "check that the weights are trained and the labels are the network's classes in its order",
    )

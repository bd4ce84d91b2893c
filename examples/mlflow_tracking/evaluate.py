"""Log a network to MLflow, audit it as one of its evaluators, and stop if a gate is not met: `python evaluate.py`."""

from __future__ import annotations

import sys

import mlflow
import torch
from mlflow.exceptions import MlflowException
from mlflow.models import MetricThreshold, infer_signature

from auditkit.demo.network import sign_net
from auditkit.demo.signs import render_signs

IMAGES = 60

AUDIT = {
    "gates": ["noise.gaussian/clean_accuracy >= 80%", "noise.pgd/robust_accuracy@4/255 >= 90%"],
    "options": {"noise.pgd": {"eps": "4/255", "steps": 5}},
}
REQUIRED = {"auditkit/passed": MetricThreshold(threshold=1, greater_is_better=True)}


def main() -> None:
    """Log, audit, and leave with 1 if the network is not to be used."""
    signs = render_signs(IMAGES, seed=1)
    images = torch.from_numpy(signs.images).permute(0, 3, 1, 2) / 255
    network = sign_net()
    first = images[:2].numpy()
    mlflow.set_experiment("signs")
    with mlflow.start_run():
        # The format pt2 needs an example, and holds no code that loading it would run.
        logged = mlflow.pytorch.log_model(
            network,
            name="signs",
            signature=infer_signature(first, network(images[:2]).detach().numpy()),
            input_example=first,
            serialization_format="pt2",
            pip_requirements=["torch"],
        )
        evaluated = mlflow.models.evaluate(
            logged.model_uri,
            data=images.flatten(1).numpy(),  # MLflow takes rows; the shape of an image is in the signature
            targets=signs.labels,
            model_type="classifier",
            evaluators="auditkit",
            evaluator_config=AUDIT,
        )
        tags = mlflow.get_run(evaluated.run_id or mlflow.active_run().info.run_id).data.tags
    print(tags["auditkit/outcome"])
    try:
        mlflow.validate_evaluation_results(REQUIRED, evaluated)
    except MlflowException as error:
        sys.exit(str(error))


if __name__ == "__main__":
    main()
